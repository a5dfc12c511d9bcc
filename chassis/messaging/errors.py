"""Faults of the connection to the broker: a lost connection is always an OSError, a cancellation stays one."""

import asyncio
import contextlib
from collections.abc import Iterator

from aio_pika.exceptions import InvalidFrameError

_BROKER_LOST = (RuntimeError, StopAsyncIteration, InvalidFrameError, asyncio.CancelledError)
"""What aio-pika raises for a lost connection, beside OSError. InvalidFrameError is what it makes of a refusal at a step
where it expects consent, as of a virtual host that is not open yet."""


@contextlib.contextmanager
def connection_may_be_lost() -> Iterator[None]:
    """Raise an OSError for whatever aio-pika raises in this block on a lost connection.

    StopAsyncIteration does most harm: in an `async for` over attempts it ends the attempts, as if the last one had
    succeeded. Errors of channels (AMQPChannelError) pass unchanged.
    """
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        # A connection that ends without a reason raises a bare Exception.
        if not isinstance(error, _BROKER_LOST) and type(error) is not Exception:
            raise
        if is_being_cancelled():
            raise asyncio.CancelledError from error
        raise ConnectionError(f"lost: {error!r}") from error


def is_being_cancelled() -> bool:
    """Whether the current task itself is cancelled. aio-pika also cancels what waits on a connection that is lost."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
