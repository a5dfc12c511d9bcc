"""How often one e-mail address may be tried: guessing a password, and making others hash, is slow work.

Counted in this process, by address and not by who asks: behind a proxy all clients look alike, and whoever floods one
address must not lock out another. Floods over many addresses meet the limit of passwords that wait.
"""

import math
import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from apps.users.problems import TooManyAttempts

ATTEMPTS: Final = RateLimitItemPerMinute(30)

_attempts: Final = MovingWindowRateLimiter(MemoryStorage())


async def count_attempt(what: str, email: str) -> None:
    """Count one attempt on an address. Raises TooManyAttempts, with the seconds until the next is let through."""
    if await _attempts.hit(ATTEMPTS, what, email):
        return
    stats = await _attempts.get_window_stats(ATTEMPTS, what, email)
    raise TooManyAttempts.after(math.ceil(max(stats.reset_time - time.time(), 1)))
