"""What a fault says: of the work itself, of a server, or of a COMMIT that nobody knows about."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import asyncpg
from aio_pika.exceptions import InvalidFrameError


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


_BROKER_LOST = (RuntimeError, StopAsyncIteration, InvalidFrameError, asyncio.CancelledError)
"""As what aio-pika shows a lost connection, beside OSError: InvalidFrameError is its way to read "no" where it expects
"yes", as of a virtual host that is not open yet."""


@contextlib.contextmanager
def connection_may_be_lost() -> Iterator[None]:
    """Whatever loses the connection to the broker in this block is raised as an OSError.

    StopAsyncIteration is the worst of what aio-pika raises instead: in an `async for` over attempts it ends the
    attempts, as if the last one had succeeded. Errors of channels, AMQPChannelError, stay what they are.
    """
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        # A bare Exception is what a connection gives that ends without a reason.
        if not isinstance(error, _BROKER_LOST) and type(error) is not Exception:
            raise
        if is_being_cancelled():
            raise asyncio.CancelledError from error
        raise ConnectionError(f"lost: {error!r}") from error


def is_being_cancelled() -> bool:
    """Whether this task is meant by a CancelledError. aio-pika also cancels what waits on a connection that is lost."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
