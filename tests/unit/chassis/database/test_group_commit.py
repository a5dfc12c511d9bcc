"""The group committer, with a fake server that records what is committed."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from chassis.database.errors import is_transient
from chassis.database.group_commit import (
    BATCH_LIMIT,
    GroupCommitter,
    OverloadedError,
    UnavailableError,
)
from chassis.database.transaction import Transaction
from events.base import Causation
from events.users import UserRegistered
from tests.support.builders import a_user
from tests.support.fake_postgres import Server
from tests.unit.chassis.database.conftest import Doubling, Make


async def a_few_steps() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


TRANSIENT: list[Exception] = [
    ConnectionRefusedError(),
    TimeoutError(),
    asyncpg.CannotConnectNowError("starting up"),
    asyncpg.AdminShutdownError("terminating"),
    asyncpg.DeadlockDetectedError("deadlock"),
    asyncpg.InterfaceError("connection is closed"),
]


class TestGroupCommitter:
    async def test_a_single_item_starts_at_once(self, committer: Make, doubling: Doubling) -> None:
        future = committer().submit(4)
        await a_few_steps()
        assert doubling.batches == [[4]]
        assert await future == 8

    async def test_items_that_arrive_during_a_transaction_form_the_next_batch(
        self, committer: Make, doubling: Doubling, server: Server
    ) -> None:
        group = committer()
        doubling.resume.clear()
        futures = [group.submit(1)]
        await a_few_steps()
        futures += [group.submit(item) for item in range(2, 50)]
        await a_few_steps()
        assert doubling.batches == [[1]]

        doubling.resume.set()

        assert await asyncio.gather(*futures) == [item * 2 for item in range(1, 50)]
        assert server.committed == [[1], list(range(2, 50))]

    async def test_a_batch_has_at_most_batch_limit_items(
        self, committer: Make, doubling: Doubling
    ) -> None:
        group = committer(waiting_limit=math.inf)
        futures = [group.submit(item) for item in range(1, 2 * BATCH_LIMIT + 2)]
        await asyncio.gather(*futures)
        assert [len(batch) for batch in doubling.batches] == [BATCH_LIMIT, BATCH_LIMIT, 1]

    async def test_a_result_is_returned_only_once_it_is_durable(
        self, committer: Make, server: Server
    ) -> None:
        server.open.clear()
        future = committer().submit(1)
        await a_few_steps()
        assert not future.done()
        server.open.set()
        assert await future == 2

    async def test_a_refusal_does_not_affect_the_other_items(
        self, committer: Make, server: Server
    ) -> None:
        group = committer()
        futures = [group.submit(item) for item in (3, 0, 4)]
        three, refusal, four = await asyncio.gather(*futures)
        assert (three, four) == (6, 8)
        assert isinstance(refusal, KeyError)
        assert server.committed == [[3, 0, 4]]

    @pytest.mark.parametrize(
        "bad", [{0}, {63}, {17}, {31, 32}, {0, 1, 2, 3}, {5, 20, 40, 60}], ids=str
    )
    async def test_a_faulty_item_fails_alone(
        self, committer: Make, server: Server, bad: set[int]
    ) -> None:
        group = committer()
        items = [-1 if place in bad else place + 1 for place in range(64)]

        results = await asyncio.gather(*map(group.submit, items), return_exceptions=True)

        for item, result in zip(items, results, strict=True):
            if item < 0:
                assert isinstance(result, ValueError)
            else:
                assert result == item * 2
        kept = [item for transaction in server.committed for item in transaction]
        assert kept == [item for item in items if item > 0]

    async def test_isolating_one_faulty_item_takes_few_transactions(
        self, committer: Make, server: Server
    ) -> None:
        group = committer()
        items = [*range(1, 256), -1]
        await asyncio.gather(*map(group.submit, items), return_exceptions=True)
        assert server.begun <= 1 + 2 * 8

    async def test_a_failed_batch_does_not_block_the_next_one(
        self, committer: Make, doubling: Doubling
    ) -> None:
        group = committer()
        bad = group.submit(-1)
        await a_few_steps()
        good = group.submit(1)
        with pytest.raises(ValueError, match="cannot double"):
            await bad
        assert await good == 2

    @pytest.mark.parametrize("fault", TRANSIENT, ids=lambda fault: type(fault).__name__)
    async def test_a_transient_error_retries_the_whole_batch(
        self, committer: Make, server: Server, fault: Exception
    ) -> None:
        server.faults = [fault]
        group = committer()
        assert list(await asyncio.gather(group.submit(1), group.submit(2))) == [2, 4]
        assert server.committed == [[1, 2]]

    async def test_a_timeout_fails_all_waiting_items_and_writes_nothing(
        self, committer: Make, server: Server, doubling: Doubling
    ) -> None:
        group = committer(timeout=0.15)
        server.faults = [OSError("unavailable")] * 10
        futures = [group.submit(1)]
        await a_few_steps()
        futures += [group.submit(2), group.submit(3)]

        results = await asyncio.gather(*futures, return_exceptions=True)

        assert [type(result) for result in results] == [UnavailableError] * 3
        assert len(server.faults) == 8, "waiting items fail at once, without two more attempts"
        assert not server.committed
        assert not doubling.batches
        server.faults.clear()
        assert await group.submit(4) == 8

    async def test_submit_raises_overloaded_if_too_many_items_wait(
        self, committer: Make, doubling: Doubling
    ) -> None:
        group = committer(waiting_limit=3)
        doubling.resume.clear()
        futures = [group.submit(1)]
        await a_few_steps()
        futures += [group.submit(item) for item in (2, 3, 4)]
        with pytest.raises(OverloadedError):
            await group.submit(5)

        doubling.resume.set()
        assert await asyncio.gather(*futures) == [2, 4, 6, 8]
        assert await group.submit(5) == 10

    async def test_an_item_cancelled_before_its_batch_is_dropped(
        self, committer: Make, doubling: Doubling
    ) -> None:
        group = committer()
        doubling.resume.clear()
        first = group.submit(1)
        await a_few_steps()
        second, third = group.submit(2), group.submit(3)
        second.cancel()
        doubling.resume.set()
        assert list(await asyncio.gather(first, third)) == [2, 6]
        assert doubling.batches == [[1], [3]]

    async def test_an_item_cancelled_during_its_batch_does_not_affect_the_others(
        self, committer: Make, doubling: Doubling, server: Server
    ) -> None:
        group = committer()
        doubling.resume.clear()
        cancelled, other = group.submit(1), group.submit(2)
        await a_few_steps()
        cancelled.cancel()
        doubling.resume.set()
        assert await other == 4
        assert server.committed == [[1, 2]]

    async def test_cancelling_the_committer_cancels_all_waiting_items(
        self, committer: Make, server: Server
    ) -> None:
        async def stuck_on_a_quarter(tx: Transaction, items: Sequence[int]) -> list[int]:
            await tx.execute("write")
            server.written += items
            if len(items) > 1:
                raise ValueError("split it")
            await asyncio.Event().wait()
            return []

        group = committer(stuck_on_a_quarter)
        futures = [group.submit(item) for item in (1, 2, 3, 4)]
        await a_few_steps()
        await a_few_steps()
        futures.append(group.submit(5))
        [stopping] = [
            task for task in asyncio.all_tasks() if task.get_name() == "committer doubling"
        ]
        stopping.cancel()
        await asyncio.wait(futures, timeout=10)
        assert all(future.cancelled() for future in futures)
        assert not server.written
        assert not server.committed

    @pytest.mark.parametrize("returned", [[], [1], [1, 2, 3]], ids=len)
    async def test_a_wrong_number_of_results_commits_nothing(
        self, committer: Make, server: Server, returned: list[int]
    ) -> None:
        async def wrong_number(tx: Transaction, items: Sequence[int]) -> list[int]:
            await tx.execute("write")
            server.written += items
            return returned

        group = committer(wrong_number)
        results = await asyncio.gather(group.submit(1), group.submit(2), return_exceptions=True)
        wrong = [result for result in results if isinstance(result, RuntimeError)]
        assert len(wrong) == (0 if len(returned) == 1 else 2)
        assert [1, 2] not in server.committed

    async def test_on_commit_is_called_once_for_a_transaction_with_events(
        self, committer: Make, committed: list[int]
    ) -> None:
        async def publishing(tx: Transaction, items: Sequence[int]) -> list[int]:
            for item in items:
                if item > 1:
                    tx.publish(UserRegistered(user=a_user()), Causation("flow"))
            return list(items)

        group = committer(publishing)
        await group.submit(1)
        assert committed == []
        await asyncio.gather(group.submit(2), group.submit(3))
        assert committed == [1]

    async def test_every_callback_gets_the_events_of_the_transaction(self, server: Server) -> None:
        async def publishing(tx: Transaction, events: Sequence[UserRegistered]) -> list[None]:
            for event in events:
                tx.publish(event, Causation("flow"))
            return [None] * len(events)

        seen: list[list[Any]] = []
        callbacks = [lambda tx: seen.append(tx.events)]
        group = GroupCommitter(server, publishing, name="publishing", on_commit=callbacks)
        callbacks.append(lambda tx: seen.append(tx.events))  # as a service adds its own
        event = UserRegistered(user=a_user())
        await group.submit(event)
        assert seen == [[event], [event]]

    async def test_drain_waits_for_all_submitted_items(
        self, committer: Make, doubling: Doubling
    ) -> None:
        group = committer()
        doubling.resume.clear()
        futures = [group.submit(1)]
        await a_few_steps()
        futures.append(group.submit(2))
        draining = asyncio.create_task(group.drain())
        await a_few_steps()
        assert not draining.done()
        doubling.resume.set()
        await draining
        assert all(future.done() for future in futures)
        await group.drain()

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("bad"),
            asyncpg.UniqueViolationError("there"),
            asyncpg.CheckViolationError("balance"),
            asyncpg.UndefinedTableError("no such table"),
            asyncpg.DataError("wrong"),
            asyncpg.InsufficientPrivilegeError("no"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_an_error_of_the_use_case_is_not_transient(self, error: Exception) -> None:
        assert not is_transient(error)
