"""What a fault says: of the work itself, of a server, or of a COMMIT that nobody knows about."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import asyncpg


class CommitUnknownError(Exception):
    """The connection was lost during COMMIT, or in the one statement that stands for it: nobody knows what happened."""


_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What may hide a COMMIT that succeeded; any other error of a COMMIT says that it did not."""


@contextlib.contextmanager
def commit_may_be_lost() -> Iterator[None]:
    """Whatever loses the connection in this block is raised as CommitUnknownError."""
    try:
        yield
    except asyncpg.QueryCanceledError:
        raise  # it took too long: the server has undone it, and is there to say so
    except _LOST as error:
        raise CommitUnknownError(str(error)) from error


_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
"""SQLSTATE classes that tell of the server's state, not of the statement: connection, rollback (deadlock,
serialization), resources, lock not available, operator intervention, system error.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""


_READ_ONLY: Final = "25006"
_IDLE_IN_TRANSACTION: Final = "25P03"


def is_transient(error: BaseException) -> bool:
    """Whether the same work may well succeed later because the fault lies with a server or the network."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state[:2] in _TRANSIENT_CLASSES or state in {_READ_ONLY, _IDLE_IN_TRANSACTION}
    return isinstance(error, (CommitUnknownError, *_LOST))  # a TimeoutError is an OSError


@contextlib.contextmanager
def connection_may_be_lost() -> Iterator[None]:
    """What tells in this block that a connection to the broker is lost is an OSError, and nothing else.

    aio-pika also raises RuntimeError, cancels what waits, and raises StopAsyncIteration: in an `async for` over
    attempts that would end the attempts, as if the last one had succeeded.
    """
    try:
        yield
    except (RuntimeError, StopAsyncIteration, asyncio.CancelledError) as error:
        if is_being_cancelled():
            raise
        raise ConnectionError(f"lost: {error!r}") from error


def is_being_cancelled() -> bool:
    """Whether this task is meant by a CancelledError. aio-pika also cancels what waits on a connection that is lost."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
