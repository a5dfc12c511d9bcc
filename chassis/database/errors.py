"""Faults of the database: transient or permanent, and a COMMIT whose outcome is unknown."""

import contextlib
from collections.abc import Iterator
from typing import Final

import asyncpg


class CommitUnknownError(Exception):
    """The connection was lost during COMMIT, or during the one statement that stands for it: the outcome is unknown."""


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""May hide a COMMIT that succeeded; any other error of a COMMIT means that it failed."""


@contextlib.contextmanager
def commit_may_be_lost() -> Iterator[None]:
    """Raise CommitUnknownError if the connection is lost in this block."""
    try:
        yield
    except asyncpg.QueryCanceledError:
        raise  # a statement timeout: the server has rolled back, and has answered
    except _LOST as error:
        raise CommitUnknownError(str(error)) from error


_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
"""SQLSTATE classes about the server's state, not about the statement: connection, rollback (deadlock, serialization),
resources, lock not available, operator intervention, system error.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


_READ_ONLY: Final = "25006"
_IDLE_IN_TRANSACTION: Final = "25P03"


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later, because the fault lies with a server or the network."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _TRANSIENT_CLASSES or state in {_READ_ONLY, _IDLE_IN_TRANSACTION}
    return isinstance(error, (CommitUnknownError, *_LOST))  # a TimeoutError is an OSError
