"""The dispatcher of a channel: leases its notifications when they are due, sends them, and records the results.

No transaction is open while the network is used: a lease moves `due_at` ahead and commits. It is extended while its
notification is being sent. After a crash the notification is leased again once its lease has run out, so one that a
server accepted just before is sent a second time, with the same id and content. Several dispatchers, in one process or
many, share the work.

A result that cannot be recorded, as the database is full or read-only, is kept in memory until it is: meanwhile nothing
else is sent and nothing is leased, whatever leases have run out.

A server's answer concerns its notification: deferred, it is tried again later; refused, it has failed. A server that
is away concerns no notification: the workers wait, and no attempt is counted. Other channels have other dispatchers.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import Counter

from apps.notifications import use_cases
from apps.notifications.channels import Channel, ServerAwayError
from apps.notifications.models import DeliveryResult, Notification
from apps.notifications.use_cases import LEASE_LIMIT, LEASE_SECONDS, Attempt, ExtendLease
from chassis import crash_points
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.transaction import Pool, Transaction

log = structlog.get_logger(__name__)

WORKERS: Final = 8
"""Notifications that a dispatcher sends at the same time."""

IDLE_SECONDS: Final = 30.0
"""After this time without a notification a worker closes its connections."""

POLL_SECONDS: Final = 1.0
"""How often the table is polled without a signal: finds deferred notifications, and those of crashed processes."""

RENEW_SECONDS: Final = LEASE_SECONDS / 3
"""How often leases are extended during sending, and how much of a lease must be left to begin."""

GATHER_SECONDS: Final = 0.03
"""How long a result waits for others to share its transaction."""

UNRECORDED_LIMIT: Final = 96
"""Notifications that a dispatcher has begun to send and not recorded, at most: what a crash may send again. Twice what
1,700 e-mails a second need while results gather, so that it delays none."""

RECORD_SECONDS: Final = 3.0
"""How long leasing waits after an outage of the database, met by a lease or a record, so that every dispatcher first
records what it has sent: more than the delay between two attempts of a committer."""

OUTAGE_SECONDS: Final = 1.0
"""A transaction that takes longer has met an outage of the database."""

STOP_SECONDS: Final = 3.0
"""How long a dispatcher that stops waits in each of three steps: leases, sending, recording."""

ATTEMPTS = Counter(
    "chorus_notifications_attempts_total",
    "Attempts to deliver, by the status that followed.",
    ["status"],
)
for _status in ("sent", "pending", "failed"):
    ATTEMPTS.labels(_status)  # from the start: an alarm sees the first one as a rise


@dataclass(eq=False, slots=True)
class Lease:
    """A lease of one notification, and its end in the event loop's time."""

    notification: Notification
    until: float


class Dispatcher:
    """Delivers the notifications of a channel for as long as it runs. `connect` makes a channel for each worker."""

    def __init__(
        self,
        pool: Pool,
        channel: str,
        connect: Callable[[], Channel],
        on_commit: OnCommit,
    ) -> None:
        self._channel = channel
        self._connect = connect
        self._leasing = GroupCommitter(
            pool, use_cases.lease_due, name="notifications.lease_due", on_commit=on_commit
        )
        self._extending = GroupCommitter(
            pool, use_cases.extend_leases, name="notifications.extend_leases", on_commit=on_commit
        )
        self._recording = GroupCommitter(
            pool,
            use_cases.record_attempts,
            name="notifications.record_attempts",
            on_commit=on_commit,
        )
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        """Notifications may be due, or there is room in the queue."""
        self._queue: asyncio.Queue[Lease] = asyncio.Queue()
        self._sending: dict[int, Lease] = {}
        """What each worker is sending at this moment."""
        self._attempts: asyncio.Queue[Attempt] = asyncio.Queue()
        """Attempts to be recorded."""
        self._unfinished: set[UUID] = set()
        """The notifications of workers and of attempts to be recorded."""
        self._unrecorded = asyncio.Semaphore(UNRECORDED_LIMIT)
        """Free places among these."""
        self._recorded = asyncio.Event()
        """Not set while attempts cannot be recorded."""
        self._recorded.set()
        self._stopping = False

    def committed(self, _tx: Transaction) -> None:
        """Look soon for notifications that a transaction may have made due."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled. Waits while the database or a channel's server is unavailable."""
        workers = [asyncio.create_task(self._work(n), name=f"send {n}") for n in range(WORKERS)]
        leasing = asyncio.create_task(self._keep_leasing())
        extending = asyncio.create_task(self._keep_extending())
        recording = asyncio.create_task(self._keep_recording())
        tasks = [*workers, leasing, extending, recording]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._stop(workers, leasing)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_leasing(self) -> None:
        """Lease what is due, as long as at most half of what is leased at a time is in the queue."""
        while not self._stopping:
            if not self._recorded.is_set():
                await self._recorded.wait()
                await asyncio.sleep(RECORD_SECONDS)
            if self._queue.qsize() <= LEASE_LIMIT // 2:
                for lease in await self._lease():
                    self._queue.put_nowait(lease)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            self._woken.clear()

    async def _lease(self) -> list[Lease]:
        """Lease notifications; after an outage only those that nobody has sent before or during it."""
        begun = self._loop.time()
        due = await self._leasing.submit(self._channel)
        leases = [
            Lease(one, begun + LEASE_SECONDS) for one in due if one.id not in self._unfinished
        ]
        if self._loop.time() - begun < OUTAGE_SECONDS:
            return leases
        await asyncio.sleep(RECORD_SECONDS)
        return await self._extend_all(leases)

    async def _extend_all(self, leases: Sequence[Lease]) -> list[Lease]:
        """Extend leases; returns those that had not run out, and whose notifications are still to be sent."""
        until = self._loop.time() + LEASE_SECONDS
        extended = await asyncio.gather(*(self._extend(lease, LEASE_SECONDS) for lease in leases))
        held = [lease for lease, is_held in zip(leases, extended, strict=True) if is_held]
        for lease in held:
            lease.until = until
        return held

    async def _keep_extending(self) -> None:
        """Extend the leases of notifications that take long to send."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            until = self._loop.time() + LEASE_SECONDS
            sending = self._sending.values()
            await self._extend_all([one for one in sending if until - one.until > RENEW_SECONDS])

    def _extend(self, lease: Lease, seconds: float) -> asyncio.Future[bool]:
        return self._extending.submit(ExtendLease(lease.notification.id, seconds))

    async def _work(self, worker: int) -> None:
        """Send one notification after the other."""
        channel = self._connect()
        try:
            while not self._stopping:
                lease = await self._next(channel)
                await self._unrecorded.acquire()
                await self._recorded.wait()
                self._unfinished.add(lease.notification.id)
                if (result := await self._deliver(worker, lease, channel)) is not None:
                    jitter = random.random()  # noqa: S311 - no secret
                    self._attempts.put_nowait(Attempt(lease.notification.id, result, jitter))
                else:
                    self._finished(lease.notification)
        finally:
            channel.close()

    async def _next(self, channel: Channel) -> Lease:
        if self._queue.qsize() == LEASE_LIMIT // 2:
            self._woken.set()
        while True:
            if not self._queue.empty():  # without the cost of a timeout
                return self._queue.get_nowait()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await self._queue.get()
            except TimeoutError:
                await channel.release()

    async def _deliver(self, worker: int, lease: Lease, channel: Channel) -> DeliveryResult | None:
        """The server's answer, or None if the lease has run out and another dispatcher may have the notification."""
        while lease.until - self._loop.time() >= RENEW_SECONDS:
            try:
                result = await self._send(worker, lease, channel)
            except ServerAwayError:
                await channel.ready()
                continue
            # A final answer always counts; a deferral only during the lease, as another dispatcher may be sending.
            held = self._loop.time() < lease.until
            return result if held or result.outcome != "deferred" else None
        return None

    async def _send(self, worker: int, lease: Lease, channel: Channel) -> DeliveryResult:
        _reached("before_send", lease.notification)
        self._sending[worker] = lease
        try:
            result = await channel.send(lease.notification)
        finally:
            del self._sending[worker]
        if result.outcome == "accepted":
            _reached("after_accept", lease.notification)
        return result

    async def _keep_recording(self) -> None:
        """Record results, each together with those that follow it soon; at once if none is to be expected."""
        while True:
            attempts = [await self._attempts.get()]
            if self._sending or not self._queue.empty():
                await asyncio.sleep(GATHER_SECONDS)
            while not self._attempts.empty():
                attempts.append(self._attempts.get_nowait())
            recordings = [self._recording.submit(attempt) for attempt in attempts]
            _, late = await asyncio.wait(recordings, timeout=OUTAGE_SECONDS)
            if late:
                self._recorded.clear()
                await asyncio.wait(late)
                self._recorded.set()
            for recording in recordings:
                _report(notification := recording.result())
                self._finished(notification)
                self._attempts.task_done()

    def _finished(self, notification: Notification) -> None:
        self._unfinished.discard(notification.id)
        self._unrecorded.release()

    async def _stop(
        self, workers: Sequence[asyncio.Task[None]], leasing: asyncio.Task[None]
    ) -> None:
        """Finish what is being sent, record the results, end the other leases."""
        self._stopping = True
        self._woken.set()
        await asyncio.wait([leasing], timeout=STOP_SECONDS)
        ended = [self._extend(self._queue.get_nowait(), 0) for _ in range(self._queue.qsize())]
        if sending := [workers[n] for n in self._sending]:
            await asyncio.wait(sending, timeout=STOP_SECONDS)
        for task in workers:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*ended, self._attempts.join(), return_exceptions=True)


def _report(notification: Notification) -> None:
    """Count an attempt that is recorded, and log it unless the notification is sent."""
    _reached("after_record", notification)
    ATTEMPTS.labels(notification.status).inc()
    if notification.status != "sent":
        log.info(
            "dispatcher.not_sent",
            notification_id=str(notification.id),
            status=notification.status,
            attempts=notification.attempts,
            code=(notification.answer or "")[:3],  # the rest may contain an address
        )


def _reached(point: str, notification: Notification) -> None:
    if crash_points.ARMED:
        crash_points.reached(f"dispatcher.{point}", [notification.kind])
