"""The mailer: takes letters that are due, hands them to the mail server, records what it said.

Letters come out of the table in sets, with a lease; no transaction is open while the network is used. A crash leaves
them to whoever takes them once the lease has run out, so a letter that a server accepted just before a crash goes out
twice, with the same Message-ID and the same bytes. Answers are recorded in sets as well, together with the events that
tell of them. Several mailers, in one process or many, share the work.

What a server says to a letter concerns that letter: "not now" lets it rest, longer each time, "never" is its end. A
server that is away concerns no letter: the mailer waits for it, letters in hand, and counts nothing.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prometheus_client import Histogram

from apps.notifications import mime, use_cases
from apps.notifications.conversation import DONE, NEVER, Reply
from apps.notifications.models import Letter
from apps.notifications.recorder import Recorder
from apps.notifications.smtp import (
    Connection,
    ConnectionLostError,
    MailServer,
    ServerAwayError,
    WornConnectionError,
)
from apps.notifications.use_cases import LEASE_SECONDS, Answer, Hold
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.transaction import Pool, Transaction
from chassis.runtime import crash_points as crash
from chassis.runtime.settings import Settings
from chassis.signal import Signal

CONNECTIONS: Final = 8
"""To the mail server, from one process."""

TAKE_LIMIT: Final = 128
"""Letters that are taken at a time; the next are taken when half of them are sent."""

SWEEP_SECONDS: Final = 1.0
"""How often the table is looked at when no bell rings: finds what has rested, and what a crash left behind."""

SEND_SECONDS: Final = 120.0
"""How long a server may take over one letter. Shorter means second copies from servers that are merely slow."""

RENEW_SECONDS: Final = LEASE_SECONDS / 3
"""How often letters that are being sent are held anew, and how much of a lease must be left to begin."""

IDLE_SECONDS: Final = 30.0
"""After this time without a letter a connection is closed."""

WIND_UP_SECONDS: Final = 3.0
"""How long a mailer that stops waits in each of three steps: letters being taken, on their way, being recorded."""

NO_SUCH_MAILBOX: Final = 553
"""Our own verdict, by RFC 5321's code, on an address that no server need be asked about."""

SECONDS = Histogram(
    "chorus_smtp_seconds",
    "Time to hand one letter to the mail server.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120),
)


@dataclass(eq=False, slots=True)
class InHand:
    """A letter that this mailer has taken, and until when it is sure of it (in the event loop's time)."""

    letter: Letter
    until: float


class Mailer:
    """Sends letters for as long as it runs."""

    def __init__(self, pool: Pool, settings: Settings, on_commit: OnCommit) -> None:
        self._sender = mime.Sender.of(settings.mail_from)
        self._server = MailServer(settings, self._sender.address, self._sender.domain)
        self._take_committer = GroupCommitter(
            pool, use_cases.take_letters, name="notifications.take_letters", on_commit=on_commit
        )
        self._hold_committer = GroupCommitter(
            pool, use_cases.hold_letters, name="notifications.hold_letters", on_commit=on_commit
        )
        self._recorder = Recorder(pool, on_commit)
        self._signal = Signal()
        self._loop = asyncio.get_running_loop()
        self._in_hand: asyncio.Queue[InHand | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._taking: asyncio.Task[int] | None = None
        self._on_their_way: dict[asyncio.Task[None] | None, InHand] = {}

    def committed(self, _tx: Transaction) -> None:
        """Look soon for what a transaction may have written."""
        self._signal.set()

    async def run(self) -> None:
        """Send until cancelled. A database or mail server that is away is waited for."""
        senders = [
            asyncio.create_task(self._keep_sending(), name=f"mail {n}") for n in range(CONNECTIONS)
        ]
        others = [
            asyncio.create_task(self._keep_taking()),
            asyncio.create_task(self._keep_holding()),
        ]
        try:
            tasks = [*senders, *others, self._recorder.fault]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._wind_up(senders, others)

    async def _keep_taking(self) -> None:
        while True:
            # Whatever becomes of this task: letters that are being taken come into the queue.
            self._taking = asyncio.create_task(self._take_once())
            if await asyncio.shield(self._taking) < TAKE_LIMIT:
                await self._signal.wait(SWEEP_SECONDS)
            await self._room.wait()

    async def _take_once(self) -> int:
        until = self._loop.time() + LEASE_SECONDS
        taken = await self._take_committer.submit(TAKE_LIMIT)
        for letter in taken:
            self._in_hand.put_nowait(InHand(letter, until))
        if self._in_hand.qsize() > TAKE_LIMIT // 2:
            self._room.clear()
        return len(taken)

    async def _keep_holding(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            until = self._loop.time() + LEASE_SECONDS
            slow = [one for one in self._on_their_way.values() if until - one.until > RENEW_SECONDS]
            holds = [
                self._hold_committer.submit(Hold(one.letter.id, LEASE_SECONDS)) for one in slow
            ]
            for one, held in zip(slow, await asyncio.gather(*holds), strict=True):
                if held:
                    one.until = until

    async def _keep_sending(self) -> None:
        connection = self._server.connection()
        try:
            while (one := await self._next(connection)) is not None:
                if (answer := await self._deliver(one, connection)) is not None:
                    last = not self._on_their_way and self._in_hand.empty()
                    self._recorder.note(answer, last=last)
        finally:
            connection.close()

    async def _next(self, connection: Connection) -> InHand | None:
        if self._in_hand.qsize() <= TAKE_LIMIT // 2:
            self._room.set()
        while self._in_hand.empty():
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await self._in_hand.get()
            except TimeoutError:
                await connection.quit()
        return self._in_hand.get_nowait()

    async def _deliver(self, one: InHand, connection: Connection) -> Answer | None:
        """What the server said to a letter; None if it is in our hands no longer: whoever has it decides."""
        try:
            recipient, message = mime.of_letter(self._sender, one.letter)
        except mime.UnsendableError as error:
            return _answer(one, Reply(NO_SUCH_MAILBOX, str(error)))
        while True:
            if not connection.is_open:
                await self._server.ready(connection)
            if one.until - self._loop.time() < RENEW_SECONDS:
                return None
            try:
                reply = await self._hand_over(one, connection, recipient, message)
            except WornConnectionError:
                continue
            except ServerAwayError as error:
                self._server.failed(connection, error)
                continue
            # A final answer stands, whoever has the letter now; "not now" would put off one that another is sending.
            final = reply.kind in {DONE, NEVER}
            return _answer(one, reply) if final or one.until > self._loop.time() else None

    async def _hand_over(
        self, one: InHand, connection: Connection, recipient: bytes, message: bytes
    ) -> Reply:
        task = asyncio.current_task()
        self._on_their_way[task] = one
        started = self._loop.time()
        if crash.ARMED:
            crash.reached("mailer.before_send", [one.letter.kind])
        try:
            reply = await connection.send(recipient, message, SEND_SECONDS)
        except ConnectionLostError as error:
            self._server.failed(connection, error)
            return Reply(0, f"the connection was lost: {error}")
        finally:
            del self._on_their_way[task]
        if crash.ARMED and reply.kind == DONE:
            crash.reached("mailer.after_accept", [one.letter.kind])
        SECONDS.observe(self._loop.time() - started)
        self._server.answered()
        return reply

    async def _wind_up(
        self, senders: Sequence[asyncio.Task[None]], others: Sequence[asyncio.Task[None]]
    ) -> None:
        """Let letters on their way arrive, record what is known, give back the rest."""
        for task in others:
            task.cancel()
        if self._taking is not None:
            await asyncio.wait([self._taking], timeout=WIND_UP_SECONDS)
        while not self._in_hand.empty():
            if (one := self._in_hand.get_nowait()) is not None:
                _ = self._hold_committer.submit(Hold(one.letter.id, 0))
        for _ in senders:
            self._in_hand.put_nowait(None)
        if busy := [task for task in senders if task in self._on_their_way]:
            await asyncio.wait(busy, timeout=WIND_UP_SECONDS)
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, *others, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WIND_UP_SECONDS):
                await asyncio.gather(self._hold_committer.drain(), self._recorder.drain())


def _answer(one: InHand, reply: Reply) -> Answer:
    jitter = random.random()  # noqa: S311 - no secret
    return Answer(one.letter.id, reply.code, reply.text, datetime.now(UTC), jitter)
