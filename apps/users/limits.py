"""The limit on attempts with one e-mail address: checking a password, and hashing one, is slow work.

Attempts are counted in this process, by address and not by client: behind a proxy all clients look alike, and a flood
on one address must not lock out others. Floods over many addresses meet the limit of passwords that wait.
"""

import math
import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from apps.users.problems import TooManyAttempts

ATTEMPTS: Final = RateLimitItemPerMinute(30)


class AttemptLimit:
    """Counts the attempts on each address."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def count(self, what: str, email: str) -> None:
        """Count one attempt. Raises TooManyAttempts with the seconds until the next one is allowed."""
        if await self._limiter.hit(ATTEMPTS, what, email):
            return
        stats = await self._limiter.get_window_stats(ATTEMPTS, what, email)
        raise TooManyAttempts.after(math.ceil(max(stats.reset_time - time.time(), 1)))
