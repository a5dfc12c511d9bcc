"""Hashing of passwords with argon2id, in threads of its own, so that the event loop is not blocked.

A hash takes about 40 milliseconds of a core and 19 MiB. The number of waiting passwords is limited; a request beyond
the limit is refused at once.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from pwdlib.hashers.argon2 import Argon2Hasher

from apps.users.password_rules import prepared
from chassis.web.problems import Unavailable

THREADS: Final = 2

WAITING_LIMIT: Final = 100
"""The most passwords that are being hashed or wait: two to three seconds of work."""

TIMEOUT_SECONDS: Final = 5.0
"""The timeout of one password, for slower machines."""

Result = TypeVar("Result")


class Passwords:
    """Hashes and checks passwords. Raises Unavailable if too many wait, or one for too long."""

    def __init__(
        self, waiting_limit: int = WAITING_LIMIT, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        # https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
        self._hasher = Argon2Hasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._dummy_hash = self._hasher.hash(secrets.token_urlsafe())
        self._threads = ThreadPoolExecutor(THREADS, "passwords")
        self._waiting = 0
        self._waiting_limit = waiting_limit
        self._timeout = timeout

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether a password matches a stored hash. Without a hash it takes the same time and returns False.

        A password that preparation changes is checked as it was sent, too: so it was hashed before there was any.
        """
        forms = dict.fromkeys((prepared(password), password))
        against = stored or self._dummy_hash
        equal = await self._run(lambda: any(self._hasher.verify(form, against) for form in forms))
        return equal and stored is not None

    def require_room(self) -> None:
        """Raise Unavailable if too many wait. For callers with work to do before they submit a password."""
        if self._waiting >= self._waiting_limit:
            raise Unavailable("Too many passwords wait to be checked. Try again shortly.")

    async def _run(self, work: Callable[[], Result]) -> Result:
        self.require_room()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise Unavailable("The password was not checked in time.") from None
        finally:
            self._waiting -= 1
