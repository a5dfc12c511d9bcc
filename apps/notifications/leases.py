"""Leases due notifications of a channel from the table, ahead of the workers that send them.

No transaction is open while the network is used: a lease moves `due_at` ahead and commits. It is extended while its
notification is being sent. If the process dies, another dispatcher leases the notification once the lease has run out.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from apps.notifications import use_cases
from apps.notifications.models import Notification
from apps.notifications.use_cases import LEASE_LIMIT, LEASE_SECONDS, ExtendLease
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.transaction import Pool

POLL_SECONDS: Final = 1.0
"""How often the table is polled without a signal: finds deferred notifications, and those of crashed processes."""

RENEW_SECONDS: Final = LEASE_SECONDS / 3
"""How often leases are extended during sending, and how much of a lease must be left to begin."""


@dataclass(eq=False, slots=True)
class Lease:
    """A lease of one notification, and its end in the event loop's time."""

    notification: Notification
    until: float

    def left(self) -> float:
        """Seconds until it runs out; negative if it has."""
        return self.until - asyncio.get_running_loop().time()

    def may_begin(self) -> bool:
        """Whether enough is left to begin sending: the next extension comes in time."""
        return self.left() >= RENEW_SECONDS


class Leases:
    """A queue of leased notifications, and those that workers are sending."""

    def __init__(self, pool: Pool, channel: str, on_commit: OnCommit) -> None:
        self._channel = channel
        self._leasing = GroupCommitter(
            pool, use_cases.lease_due, name="notifications.lease_due", on_commit=on_commit
        )
        self._extending = GroupCommitter(
            pool, use_cases.extend_leases, name="notifications.extend_leases", on_commit=on_commit
        )
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Lease | None] = asyncio.Queue()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._leased: asyncio.Task[int] | None = None
        self.sending: dict[asyncio.Task[None] | None, Lease] = {}
        """What each worker is sending at this moment."""

    def wake(self) -> None:
        """Poll the table at once."""
        self._woken.set()

    async def keep_leasing(self) -> None:
        """Lease what becomes due, as long as at most half of what was leased last is in the queue."""
        while True:
            # A task of its own: what it leases comes into the queue even if this one is cancelled.
            self._leased = asyncio.create_task(self._lease())
            if await asyncio.shield(self._leased) < LEASE_LIMIT:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._woken.wait()
                self._woken.clear()
            await self._has_room.wait()

    async def _lease(self) -> int:
        until = self._loop.time() + LEASE_SECONDS
        notifications = await self._leasing.submit(self._channel)
        for notification in notifications:
            self._queue.put_nowait(Lease(notification, until))
        if self._queue.qsize() > LEASE_LIMIT // 2:
            self._has_room.clear()
        return len(notifications)

    async def keep_extending(self) -> None:
        """Extend the leases of notifications that take long to send."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            until = self._loop.time() + LEASE_SECONDS
            slow = [lease for lease in self.sending.values() if until - lease.until > RENEW_SECONDS]
            extended = await asyncio.gather(*(self._extend(lease, LEASE_SECONDS) for lease in slow))
            for lease, held in zip(slow, extended, strict=True):
                if held:
                    lease.until = until

    def _extend(self, lease: Lease, seconds: float) -> asyncio.Future[bool]:
        return self._extending.submit(ExtendLease(lease.notification.id, seconds))

    async def next(self, seconds: float) -> Lease | None:
        """The next lease, or None when the dispatcher stops. Raises TimeoutError if none comes in so many seconds."""
        if self._queue.qsize() <= LEASE_LIMIT // 2:
            self._has_room.set()
        if not self._queue.empty():
            return self._queue.get_nowait()
        async with asyncio.timeout(seconds):
            return await self._queue.get()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is leased."""
        return not self.sending and self._queue.empty()

    async def stop(self, workers: int, seconds: float) -> None:
        """End leases that no worker has taken, and have so many workers stop after what they are sending."""
        if self._leased is not None:
            await asyncio.wait([self._leased], timeout=seconds)
        while not self._queue.empty():
            if (lease := self._queue.get_nowait()) is not None:
                _ = self._extend(lease, 0)
        for _worker in range(workers):
            self._queue.put_nowait(None)

    async def drain(self) -> None:
        """Wait until all changes of leases are durable."""
        await self._extending.drain()
