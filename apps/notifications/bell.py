"""The bell: rings when a letter may have become due, so that the mailer goes to look at once."""

import asyncio
import contextlib


class Bell:
    """Rung by use cases after their commit, heard by the mailer of the same process."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Say that there may be letters to send."""
        self._rung.set()

    async def received(self, *, within: float) -> None:
        """Wait for the next ring, at most `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._rung.wait()
        self._rung.clear()


bell = Bell()
"""One per process."""
