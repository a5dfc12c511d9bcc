"""The dispatcher of a channel: sends its notifications when they are due, and records the results and their events.

A crash leaves its notifications to the process that leases them next, so one that a server accepted just before a crash
is sent a second time, with the same id and content. Several dispatchers, in one process or many, share the work.

A server's answer concerns its notification: deferred, it is tried again later; refused, it has failed. A server that
is away concerns no notification: the workers wait, and no attempt is counted. Other channels have other dispatchers.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog
from prometheus_client import Counter

from apps.notifications import use_cases
from apps.notifications.channels import Channel, ServerAwayError
from apps.notifications.leases import Lease, Leases
from apps.notifications.models import DeliveryResult, Notification
from apps.notifications.use_cases import Attempt
from chassis import crash_points
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.transaction import Pool, Transaction

log = structlog.get_logger(__name__)

WORKERS: Final = 8
"""Notifications that a dispatcher sends at the same time."""

IDLE_SECONDS: Final = 30.0
"""After this time without a notification a worker closes its connections."""

RESULTS_LIMIT: Final = 64
"""Results that are recorded without waiting for more."""

GATHER_SECONDS: Final = 0.03
"""How long a result waits for others to share its transaction."""

STOP_SECONDS: Final = 3.0
"""How long a dispatcher that stops waits in each of three steps: leases, sending, recording."""

ATTEMPTS = Counter(
    "chorus_notifications_attempts_total",
    "Attempts to deliver, by the status that followed.",
    ["status"],
)


class Dispatcher:
    """Delivers the notifications of a channel for as long as it runs. `connect` makes a channel for each worker."""

    def __init__(
        self,
        pool: Pool,
        channel: str,
        connect: Callable[[], Channel],
        on_commit: OnCommit,
    ) -> None:
        self._connect = connect
        self._leases = Leases(pool, channel, on_commit)
        self._recording = GroupCommitter(
            pool,
            use_cases.record_attempts,
            name="notifications.record_attempts",
            on_commit=on_commit,
            waiting_limit=math.inf,
        )
        self._loop = asyncio.get_running_loop()
        self._attempts: list[Attempt] = []
        self._timer: asyncio.TimerHandle | None = None
        self._fault: asyncio.Future[None] = self._loop.create_future()
        """Why recording failed, if not because the database is away."""

    def committed(self, _tx: Transaction) -> None:
        """Look soon for notifications that a transaction may have made due."""
        self._leases.wake()

    async def run(self) -> None:
        """Deliver until cancelled. A database or a channel's server that is away is waited for."""
        workers = [asyncio.create_task(self._work(), name=f"send {n}") for n in range(WORKERS)]
        leasing = [
            asyncio.create_task(self._leases.keep_leasing()),
            asyncio.create_task(self._leases.keep_extending()),
        ]
        try:
            tasks = [*workers, *leasing, self._fault]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._stop(workers, leasing)

    async def _work(self) -> None:
        channel = self._connect()
        try:
            while (lease := await self._next(channel)) is not None:
                if (result := await self._deliver(lease, channel)) is not None:
                    self._note(lease.notification, result)
        finally:
            channel.close()

    async def _next(self, channel: Channel) -> Lease | None:
        while True:
            try:
                return await self._leases.next(IDLE_SECONDS)
            except TimeoutError:
                await channel.release()

    async def _deliver(self, lease: Lease, channel: Channel) -> DeliveryResult | None:
        """The server's answer, or None if the lease has run out and another dispatcher may have the notification."""
        while lease.may_begin():
            try:
                result = await self._send(lease, channel)
            except ServerAwayError:
                await channel.ready()
                continue
            # A final answer always counts; a deferral only during the lease, as another dispatcher may be sending.
            final = result.outcome != "deferred"
            return result if final or lease.left() > 0 else None
        return None

    async def _send(self, lease: Lease, channel: Channel) -> DeliveryResult:
        task = asyncio.current_task()
        self._leases.sending[task] = lease
        try:
            if crash_points.ARMED:
                crash_points.reached("dispatcher.before_send", [lease.notification.kind])
            result = await channel.send(lease.notification)
        finally:
            del self._leases.sending[task]
        if crash_points.ARMED and result.outcome == "accepted":
            crash_points.reached("dispatcher.after_accept", [lease.notification.kind])
        return result

    def _note(self, notification: Notification, result: DeliveryResult) -> None:
        """Record a result soon, together with others; at once if no other is to be expected."""
        jitter = random.random()  # noqa: S311 - no secret
        self._attempts.append(Attempt(notification.id, result, datetime.now(UTC), jitter))
        if self._leases.is_idle or len(self._attempts) >= RESULTS_LIMIT:
            self._record()
        elif self._timer is None:
            self._timer = self._loop.call_later(GATHER_SECONDS, self._record)

    def _record(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            self._recording.submit(attempt).add_done_callback(self._recorded)

    def _recorded(self, recorded: asyncio.Future[Notification]) -> None:
        if recorded.cancelled():
            return
        if (error := recorded.exception()) is not None:
            if not self._fault.done():
                self._fault.set_exception(error)
            return
        notification = recorded.result()
        if crash_points.ARMED:
            crash_points.reached("dispatcher.after_record", [notification.kind])
        ATTEMPTS.labels(notification.status).inc()
        if notification.status != "sent":
            log.info(
                "dispatcher.not_sent",
                notification_id=str(notification.id),
                status=notification.status,
                attempts=notification.attempts,
                code=(notification.answer or "")[:3],  # the rest may contain an address
            )

    async def _stop(
        self, workers: Sequence[asyncio.Task[None]], leasing: Sequence[asyncio.Task[None]]
    ) -> None:
        """Finish what is being sent, record the results, end the other leases."""
        for task in leasing:
            task.cancel()
        await self._leases.stop(len(workers), STOP_SECONDS)
        if sending := [task for task in workers if task in self._leases.sending]:
            await asyncio.wait(sending, timeout=STOP_SECONDS)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, *leasing, return_exceptions=True)
        self._record()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(self._leases.drain(), self._recording.drain())
