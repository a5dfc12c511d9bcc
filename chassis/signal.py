"""A signal that wakes one background task."""

import asyncio
import contextlib


class Signal:
    """Wakes the task that waits. One that is set while nobody waits ends the next wait at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the task."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Return at the next `set`, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        self._event.clear()
