"""Group commit: many items share one transaction.

Round trips and commits dominate the cost of an order. The HTTP API and the consumers submit single items and await
single results; the use case receives a list. An idle committer starts at once; items that arrive during a transaction
form the next batch. There is no timer: a single item is never delayed, and under load up to 256 share a transaction.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import structlog
from prometheus_client import Histogram

from chassis import crash_points
from chassis.database.errors import CommitUnknownError, is_transient
from chassis.database.transaction import Pool, Transaction, transaction
from events.base import Envelope

log = structlog.get_logger(__name__)

BATCH_LIMIT: Final = 256
"""The most items in one transaction; bounds how long its locks are held."""

WAITING_LIMIT: Final = 4096
"""The most items that wait; beyond that `submit` raises OverloadedError."""

BATCH_SIZE = Histogram(
    "chorus_batch_size",
    "Items per transaction.",
    ["work"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Transaction, Sequence[Item]], Awaitable[Sequence[Result]]]
"""A use case; returns one result for each item, in order. A refusal is a result; an exception is a fault."""

Batch = Sequence[tuple[Item, asyncio.Future[Result]]]

OnCommit = Sequence[Callable[[Transaction], None]]
"""Called after each COMMIT with the transaction that is now durable. They must not raise."""


class OverloadedError(Exception):
    """Too many items wait for a transaction."""


class UnavailableError(Exception):
    """The database was unavailable for longer than the timeout. Nothing has been written."""


class GroupCommitter(Generic[Item, Result]):
    """Runs one use case over batches of items, each batch in one transaction.

    A batch that raises is split and retried, down to single items, so that a faulty item fails alone. On a transient
    error of the database the whole batch is retried until the `timeout` (seconds). Consumers have no timeout: their
    messages stay unacknowledged, and a repeated event is deduplicated. Requests have a short one and get
    UnavailableError, or CommitUnknownError if the connection was lost during COMMIT.

    `work` may be a fast path that fails on rare batches: a failed batch is passed to `fallback` before it is split.
    """

    def __init__(
        self,
        pool: Pool,
        work: Work[Item, Result],
        *,
        name: str,
        on_commit: OnCommit,
        fallback: Work[Item, Result] | None = None,
        timeout: float = math.inf,
        waiting_limit: float = WAITING_LIMIT,
    ) -> None:
        self._pool = pool
        self._work = work
        self._fallback = fallback or work
        self._name = name
        self._on_commit = on_commit
        self._timeout = timeout
        self._waiting_limit = waiting_limit
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._batch_size = BATCH_SIZE.labels(name)

    def submit(self, item: Item) -> asyncio.Future[Result]:
        """Submit one item. The future is done once the item's transaction is durable.

        Raises OverloadedError if too many items wait.
        """
        if len(self._waiting) >= self._waiting_limit:
            raise OverloadedError(self._name)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"committer {self._name}")
        return future

    async def _run(self) -> None:
        batch: Batch[Item, Result] = []
        try:
            while self._waiting:
                # Items whose caller was cancelled are dropped: their work has not begun.
                take = min(len(self._waiting), BATCH_LIMIT)
                batch = [self._waiting.popleft() for _ in range(take)]
                await self._commit([(item, future) for item, future in batch if not future.done()])
        finally:
            self._running = None
            for _, future in (*batch, *self._waiting):
                future.cancel()  # no effect on one that is done
            self._waiting.clear()

    async def _commit(self, batch: Batch[Item, Result]) -> None:
        if not batch:
            return
        try:
            results = await self._transact([item for item, _ in batch])
        except UnavailableError as error:
            # Items that wait would fail later for the same reason.
            _fail((*batch, *self._waiting), error)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, CommitUnknownError):
                _fail(batch, error)
            else:
                await self._split(batch, error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _split(self, batch: Batch[Item, Result], error: Exception) -> None:
        log.warning("committer.splitting", work=self._name, items=len(batch), error=repr(error))
        middle = len(batch) // 2
        await self._commit(batch[:middle])
        if crash_points.ARMED:
            crash_points.reached("committer.between_halves", _types(item for item, _ in batch))
        await self._commit(batch[middle:])

    async def _transact(self, items: Sequence[Item]) -> Sequence[Result]:
        work, failures = self._work, 0
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            try:
                return await self._once(items, work)
            except Exception as error:
                if is_transient(error):
                    failures += 1
                    await self._wait(error, failures, deadline)
                elif work is self._fallback:
                    raise
                else:
                    log.info("committer.fallback", work=self._name, error=repr(error))
                    work = self._fallback

    async def _wait(self, error: Exception, failures: int, deadline: float) -> None:
        """Wait before the next attempt, after a transient error; raises if there must not be one."""
        if isinstance(error, CommitUnknownError) and math.isfinite(self._timeout):
            raise error
        delay = min(0.05 * 2 ** min(failures, 6), 2.0)
        if asyncio.get_running_loop().time() + delay > deadline:
            raise UnavailableError(repr(error)) from error
        log.warning("committer.waiting", work=self._name, error=repr(error), delay=delay)
        await asyncio.sleep(delay)

    async def _once(self, items: Sequence[Item], work: Work[Item, Result]) -> Sequence[Result]:
        async with transaction(self._pool) as tx:
            self._reached("after_begin", items, tx)
            results = await work(tx, items)
            self._reached("before_commit", items, tx)
            if len(results) != len(items):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(items)} items")
        self._reached("after_commit", items, tx)
        self._batch_size.observe(len(items))
        for callback in self._on_commit:
            callback(tx)
        return results

    def _reached(self, point: str, items: Sequence[Item], tx: Transaction) -> None:
        if crash_points.ARMED:
            published = {row.attributes["type"] for row in tx.outbox}
            crash_points.reached(f"committer.{point}", published | _types(items))

    async def drain(self) -> None:
        """Wait until every submitted item is done."""
        while self._running is not None:
            await asyncio.wait([self._running])


def _fail(batch: Iterable[tuple[object, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


def _types(items: Iterable[object]) -> set[str]:
    return {type(item.event).__name__ for item in items if isinstance(item, Envelope)}
