"""Passwords: argon2id, in threads of its own, so that the event loop goes on while a password is hashed.

A hash takes about 40 milliseconds of a core and 19 MiB. What waits is bounded; a request beyond it is refused at once.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from pwdlib.hashers.argon2 import Argon2Hasher

from chassis.web.problems import Unavailable

THREADS: Final = 2

WAITING_LIMIT: Final = 100
"""Passwords that are hashed or wait for it: two to three seconds of work."""

PATIENCE_SECONDS: Final = 5.0
"""How long a password waits on a machine that is slower than that."""

Result = TypeVar("Result")


class Passwords:
    """Hashes and checks passwords. Raises Unavailable when too many wait, or one for too long."""

    def __init__(
        self, waiting_limit: int = WAITING_LIMIT, patience: float = PATIENCE_SECONDS
    ) -> None:
        # https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
        self._hasher = Argon2Hasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._nobodys = self._hasher.hash(secrets.token_urlsafe())
        self._threads = ThreadPoolExecutor(THREADS, "passwords")
        self._waiting = 0
        self._waiting_limit = waiting_limit
        self._patience = patience

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether it is the password behind a stored hash. Without one it takes just as long and is not."""
        equal = await self._run(lambda: self._hasher.verify(password, stored or self._nobodys))
        return equal and stored is not None

    def require_room(self) -> None:
        """Raise Unavailable if too many wait; for whoever has work to do before the password's turn."""
        if self._waiting >= self._waiting_limit:
            raise Unavailable("Too many passwords wait to be checked. Try again shortly.")

    async def _run(self, work: Callable[[], Result]) -> Result:
        self.require_room()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise Unavailable("The password's turn did not come in time.") from None
        finally:
            self._waiting -= 1


passwords: Final = Passwords()
