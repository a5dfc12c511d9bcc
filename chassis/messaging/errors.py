"""Faults of the connection to the broker: a lost connection is always an OSError, a cancellation stays one."""

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import Final

from aio_pika.exceptions import InvalidFrameError

_BROKER_LOST = (RuntimeError, StopAsyncIteration, InvalidFrameError, asyncio.CancelledError)
"""What aio-pika raises for a lost connection, beside OSError. InvalidFrameError is what it makes of a refusal at a step
where it expects consent, as of a virtual host that is not open yet."""


LASTING_SECONDS: Final = 10.0
"""How long work must fail before that is more than a short disturbance."""

EXPIRY_SECONDS: Final = 30.0
"""How long after its last failure work is believed to be done, as by another process; each attempt takes less."""


class Failures:
    """Failures of the same work, one after the other."""

    def __init__(self) -> None:
        self._first = self._last = -math.inf
        self.error: BaseException | None = None
        """The last one, until the work has succeeded."""

    def add(self, error: BaseException) -> None:
        """The work has failed, and will be tried again."""
        now = asyncio.get_running_loop().time()
        if now - self._last > EXPIRY_SECONDS:
            self._first = now
        self._last, self.error = now, error

    def clear(self) -> None:
        """The work has succeeded."""
        self._first = self._last = -math.inf
        self.error = None

    async def fault(self) -> str:
        """The last error, if the work has failed for longer than LASTING_SECONDS; else empty."""
        lasting = self._last - self._first > LASTING_SECONDS
        expired = asyncio.get_running_loop().time() - self._last > EXPIRY_SECONDS
        return type(self.error).__name__ if lasting and not expired else ""


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
