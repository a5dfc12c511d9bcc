"""Hashing of passwords with argon2id, in threads of its own, so that the event loop is not blocked.

A hash takes about 40 milliseconds of a core and 19 MiB. The number of waiting passwords is limited. Clients take turns:
one that sends many waits behind itself, and if there is no room, the client with the most loses its latest.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict, deque
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


class Turns:
    """Turns of a limited number of slots: each client's in order, and clients round robin."""

    def __init__(self, slots: int, limit: int) -> None:
        self.limit = limit
        """The most that have a slot or wait for one."""
        self._slots = self._free = slots
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """By client, in the order of their turns."""

    async def take(self, client: str) -> None:
        """Wait for a slot. Raises Unavailable if there is no room, at once or once others need it."""
        if self._free:
            self._free -= 1
            return
        self._require_room(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.give_back()  # it was given a slot at the same moment
            else:
                self._remove(client, turn)
            raise

    def give_back(self) -> None:
        """Give a slot to the next client."""
        while self._waiting:
            client, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[client] = queue
            if not turn.done():  # else its request was cancelled a moment ago
                turn.set_result(None)
                return
        self._free += 1

    def _require_room(self, client: str) -> None:
        taken = self._slots - self._free + sum(len(queue) for queue in self._waiting.values())
        if taken < self.limit:
            return
        most = max(self._waiting, key=lambda one: len(self._waiting[one]), default=client)
        if len(self._waiting.get(most, ())) <= len(self._waiting.get(client, ())) + 1:
            raise Unavailable("Too many passwords wait to be checked. Try again shortly.")
        last = self._waiting[most][-1]
        self._remove(most, last)
        last.set_exception(Unavailable("Others need the room that you take. Try again shortly."))

    def _remove(self, client: str, turn: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(client, deque())
        with contextlib.suppress(ValueError):
            queue.remove(turn)
        if not queue:
            self._waiting.pop(client, None)


class Passwords:
    """Hashes and checks passwords. Raises Unavailable if too many wait, or one for too long."""

    def __init__(
        self, waiting_limit: int = WAITING_LIMIT, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        # https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
        self._hasher = Argon2Hasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._dummy_hash = self._hasher.hash(secrets.token_urlsafe())
        self._threads = ThreadPoolExecutor(THREADS, "passwords")
        self._turns = Turns(THREADS, waiting_limit)
        self._timeout = timeout

    async def hash(self, password: str, client: str = "") -> str:
        """The hash to store."""
        return await self._run(lambda: self._hasher.hash(password), client)

    async def matches(self, password: str, stored: str | None, client: str = "") -> bool:
        """Whether a password matches a stored hash. Without a hash it takes the same time and returns False.

        A password that preparation changes is checked as it was sent, too: so it was hashed before there was any.
        """
        forms = dict.fromkeys((prepared(password), password))
        against = stored or self._dummy_hash

        def verify() -> bool:
            return any(self._hasher.verify(form, against) for form in forms)

        return await self._run(verify, client) and stored is not None

    async def _run(self, work: Callable[[], Result], client: str) -> Result:
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.take(client)
                try:
                    running = asyncio.get_running_loop().run_in_executor(self._threads, work)
                    return await running
                finally:
                    self._turns.give_back()
        except TimeoutError:
            raise Unavailable("The password was not checked in time.") from None
