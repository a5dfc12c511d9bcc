"""The rate limit on attempts to register or sign in with one e-mail address. Hashing a password is slow.

Attempts are counted in this process, by address and not by client: behind a proxy all clients look alike, and a flood
on one address must not lock out others. The limit on waiting passwords bounds floods over many addresses.
"""

import math
import time
from typing import Final, Self

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from chassis.web.problems import Problem

ATTEMPTS: Final = RateLimitItemPerMinute(30)


class TooManyAttempts(Problem, status=429, reason="too_many_attempts"):
    """This e-mail address was tried too often; try again later."""

    @classmethod
    def after(cls, seconds: int) -> Self:
        """The refusal, with the seconds until the next attempt is allowed."""
        return cls(f"Try again in {seconds} s.", headers={"Retry-After": str(seconds)})

    @classmethod
    def example(cls) -> Self:
        """An instance for the documentation."""
        return cls.after(20)


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
