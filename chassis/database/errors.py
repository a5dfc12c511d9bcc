"""Faults of the database: transient or permanent, and a COMMIT whose outcome is unknown."""

from typing import Final

import asyncpg


class CommitUnknownError(Exception):
    """The connection was lost during COMMIT, or during the one statement that stands for it: the outcome is unknown."""


CONNECTION_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""May hide a COMMIT that succeeded; any other error of a COMMIT means that it failed."""

_TRANSIENT: Final = ("08", "40", "53", "55", "57", "58", "25006", "25P03")
"""SQLSTATE classes about the server's state, not about the statement: connection, rollback (deadlock, serialization),
resources, lock not available, operator intervention, system error; and a read-only server, a transaction left idle.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later: the fault lies with a server or the network."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_TRANSIENT)
    return isinstance(error, (CommitUnknownError, *CONNECTION_LOST))  # a TimeoutError is an OSError
