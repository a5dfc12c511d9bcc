"""The group committer, with a connection of our own that keeps what is committed."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from chassis.database.errors import CommitUnknownError, is_transient
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
from tests.unit.server import Server


class Doubling:
    """A use case: doubles numbers. Zero is a refusal, a negative number a fault; it can be held up."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, tx: Transaction, items: Sequence[int]) -> list[int | Exception]:
        assert tx.now.utcoffset() is not None
        self.batches.append(list(items))
        await self.go_on.wait()
        await tx.execute("double")
        self.server.written += items
        if any(item < 0 for item in items):
            raise ValueError(f"cannot double {items}")
        return [item * 2 if item else KeyError("refused") for item in items]


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def doubling(server: Server) -> Doubling:
    return Doubling(server)


Make = Callable[..., GroupCommitter[int, Any]]


@pytest.fixture
async def woken() -> list[int]:
    return []


@pytest.fixture
async def committer(server: Server, doubling: Doubling, woken: list[int]) -> Make:
    def make(work: Any = doubling, **commands: Any) -> GroupCommitter[int, Any]:
        return GroupCommitter(
            server,
            work,
            name="doubling",
            on_commit=lambda tx: woken.extend([1] if tx.outbox else []),
            **commands,
        )

    return make


async def a_tick() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_item_that_comes_alone_starts_at_once(committer: Make, doubling: Doubling) -> None:
    future = committer().submit(4)
    await a_tick()
    assert doubling.batches == [[4]]
    assert await future == 8


async def test_what_arrives_during_a_transaction_forms_the_next_one(
    committer: Make, doubling: Doubling, server: Server
) -> None:
    group = committer()
    doubling.go_on.clear()
    futures = [group.submit(1)]
    await a_tick()
    futures += [group.submit(item) for item in range(2, 50)]
    await a_tick()
    assert doubling.batches == [[1]]

    doubling.go_on.set()

    assert await asyncio.gather(*futures) == [item * 2 for item in range(1, 50)]
    assert server.committed == [[1], list(range(2, 50))]


async def test_a_transaction_takes_no_more_than_its_limit(
    committer: Make, doubling: Doubling
) -> None:
    group = committer(waiting_limit=math.inf)
    futures = [group.submit(item) for item in range(1, 2 * BATCH_LIMIT + 2)]
    await asyncio.gather(*futures)
    assert [len(batch) for batch in doubling.batches] == [BATCH_LIMIT, BATCH_LIMIT, 1]


async def test_a_result_is_given_only_once_it_is_durable(committer: Make, server: Server) -> None:
    server.open.clear()
    future = committer().submit(1)
    await a_tick()
    assert not future.done()
    server.open.set()
    assert await future == 2


async def test_a_refusal_is_a_result_and_costs_the_others_nothing(
    committer: Make, server: Server
) -> None:
    group = committer()
    futures = [group.submit(item) for item in (3, 0, 4)]
    three, refusal, four = await asyncio.gather(*futures)
    assert (three, four) == (6, 8)
    assert isinstance(refusal, KeyError)
    assert server.committed == [[3, 0, 4]]


@pytest.mark.parametrize("bad", [{0}, {63}, {17}, {31, 32}, {0, 1, 2, 3}, {5, 20, 40, 60}], ids=str)
async def test_a_bad_item_fails_alone(committer: Make, server: Server, bad: set[int]) -> None:
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


async def test_finding_one_bad_item_takes_few_transactions(committer: Make, server: Server) -> None:
    group = committer()
    items = [*range(1, 256), -1]
    await asyncio.gather(*map(group.submit, items), return_exceptions=True)
    assert server.begun <= 1 + 2 * 8


async def test_the_next_batch_is_not_held_up_by_a_bad_one(
    committer: Make, doubling: Doubling
) -> None:
    group = committer()
    bad = group.submit(-1)
    await a_tick()
    good = group.submit(1)
    with pytest.raises(ValueError, match="cannot double"):
        await bad
    assert await good == 2


AWAY: list[Exception] = [
    ConnectionRefusedError(),
    TimeoutError(),
    asyncpg.CannotConnectNowError("starting up"),
    asyncpg.AdminShutdownError("terminating"),
    asyncpg.DeadlockDetectedError("deadlock"),
    asyncpg.InterfaceError("connection is closed"),
]


@pytest.mark.parametrize("fault", AWAY, ids=lambda fault: type(fault).__name__)
async def test_a_fault_of_the_server_is_waited_out_with_the_batch_whole(
    committer: Make, server: Server, fault: Exception
) -> None:
    server.faults = [fault]
    group = committer()
    assert list(await asyncio.gather(group.submit(1), group.submit(2))) == [2, 4]
    assert server.committed == [[1, 2]]


class TestAQuickWayThatDoesNotKnowEverything:
    """It is tried first; whatever it fails with, the batch is worked on the other way."""

    @pytest.fixture
    def quick(self) -> list[list[int]]:
        """The batches that were tried the quick way."""
        return []

    @pytest.fixture
    async def group(
        self, committer: Make, doubling: Doubling, quick: list[list[int]]
    ) -> GroupCommitter[int, Any]:
        async def even_ones(tx: Transaction, items: Sequence[int]) -> list[int]:
            quick.append(list(items))
            if any(item % 2 for item in items):
                raise asyncpg.UniqueViolationError("odd")
            if any(item > 100 for item in items):
                raise OSError("away")
            return [item * 2 for item in items]

        return committer(even_ones, fallback=doubling)

    async def test_the_other_way_is_not_gone_without_need(
        self, group: GroupCommitter[int, Any], doubling: Doubling
    ) -> None:
        assert list(await asyncio.gather(group.submit(2), group.submit(4))) == [4, 8]
        assert doubling.batches == []

    @pytest.mark.parametrize("items", [[2, 3, 4], [2, 102]], ids=["a fault", "a server away"])
    async def test_a_batch_that_failed_is_tried_again_whole(
        self,
        group: GroupCommitter[int, Any],
        doubling: Doubling,
        quick: list[list[int]],
        items: list[int],
    ) -> None:
        results = list(await asyncio.gather(*map(group.submit, items)))
        assert results == [item * 2 for item in items]
        assert quick == [items]
        assert doubling.batches == [items]

    async def test_what_fails_either_way_fails_alone(self, group: GroupCommitter[int, Any]) -> None:
        results = await asyncio.gather(*map(group.submit, [2, -1, 4]), return_exceptions=True)
        assert results[::2] == [4, 8]
        assert isinstance(results[1], ValueError)


async def test_patience_ends_for_everybody_who_waits_and_nothing_has_happened(
    committer: Make, server: Server, doubling: Doubling
) -> None:
    group = committer(timeout=0.15)
    server.faults = [OSError("away")] * 10
    futures = [group.submit(1)]
    await a_tick()
    futures += [group.submit(2), group.submit(3)]

    results = await asyncio.gather(*futures, return_exceptions=True)

    assert [type(result) for result in results] == [UnavailableError] * 3
    assert len(server.faults) == 8, "who waits behind is told at once, without two more attempts"
    assert not server.committed
    assert not doubling.batches
    server.faults.clear()
    assert await group.submit(4) == 8


class TestACommitWhoseAnswerIsLost:
    """It may have happened or not."""

    FAULTS = (
        ConnectionResetError(),
        asyncpg.ConnectionDoesNotExistError("closed"),
        asyncpg.AdminShutdownError("terminating"),
        asyncpg.InterfaceError("closed"),
    )

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
    async def test_a_person_is_told_and_it_is_not_done_again(
        self, committer: Make, server: Server, doubling: Doubling, fault: Exception
    ) -> None:
        group = committer(timeout=5)
        server.commit_faults = [fault]
        results = await asyncio.gather(group.submit(1), group.submit(2), return_exceptions=True)
        assert [type(result) for result in results] == [CommitUnknownError] * 2
        assert doubling.batches == [[1, 2]]

    async def test_a_message_is_handled_again_because_the_inbox_knows_it(
        self, committer: Make, server: Server, doubling: Doubling
    ) -> None:
        server.commit_faults = [ConnectionResetError()]
        assert await committer().submit(1) == 2
        assert doubling.batches == [[1], [1]]

    async def test_a_commit_that_the_server_refused_did_not_happen(
        self, committer: Make, server: Server
    ) -> None:
        server.commit_faults = [asyncpg.IntegrityConstraintViolationError("deferred")]
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await committer(timeout=5).submit(1)


async def test_who_comes_when_too_many_wait_is_turned_away(
    committer: Make, doubling: Doubling
) -> None:
    group = committer(waiting_limit=3)
    doubling.go_on.clear()
    futures = [group.submit(1)]
    await a_tick()
    futures += [group.submit(item) for item in (2, 3, 4)]
    with pytest.raises(OverloadedError):
        await group.submit(5)

    doubling.go_on.set()
    assert await asyncio.gather(*futures) == [2, 4, 6, 8]
    assert await group.submit(5) == 10


async def test_who_goes_away_before_his_batch_is_left_out(
    committer: Make, doubling: Doubling
) -> None:
    group = committer()
    doubling.go_on.clear()
    first = group.submit(1)
    await a_tick()
    second, third = group.submit(2), group.submit(3)
    second.cancel()
    doubling.go_on.set()
    assert list(await asyncio.gather(first, third)) == [2, 6]
    assert doubling.batches == [[1], [3]]


async def test_who_goes_away_during_his_batch_harms_nobody(
    committer: Make, doubling: Doubling, server: Server
) -> None:
    group = committer()
    doubling.go_on.clear()
    leaving, staying = group.submit(1), group.submit(2)
    await a_tick()
    leaving.cancel()
    doubling.go_on.set()
    assert await staying == 4
    assert server.committed == [[1, 2]]


async def test_a_process_that_stops_leaves_nobody_waiting(committer: Make, server: Server) -> None:
    async def stuck_on_a_half_of_a_half(tx: Transaction, items: Sequence[int]) -> list[int]:
        await tx.execute("write")
        server.written += items
        if len(items) > 1:
            raise ValueError("split it")
        await asyncio.Event().wait()
        return []

    group = committer(stuck_on_a_half_of_a_half)
    futures = [group.submit(item) for item in (1, 2, 3, 4)]
    await a_tick()
    await a_tick()
    futures.append(group.submit(5))
    [stopping] = [task for task in asyncio.all_tasks() if task.get_name() == "committer doubling"]
    stopping.cancel()
    await asyncio.wait(futures, timeout=10)
    assert all(future.cancelled() for future in futures)
    assert not server.written
    assert not server.committed


@pytest.mark.parametrize("answers", [[], [1], [1, 2, 3]], ids=len)
async def test_a_use_case_that_forgets_somebody_commits_nothing(
    committer: Make, server: Server, answers: list[int]
) -> None:
    async def forgetful(tx: Transaction, items: Sequence[int]) -> list[int]:
        await tx.execute("write")
        server.written += items
        return answers

    group = committer(forgetful)
    results = await asyncio.gather(group.submit(1), group.submit(2), return_exceptions=True)
    wrong = [result for result in results if isinstance(result, RuntimeError)]
    assert len(wrong) == (0 if len(answers) == 1 else 2)
    assert [1, 2] not in server.committed


async def test_the_relay_is_woken_once_for_a_transaction_with_events(
    committer: Make, woken: list[int]
) -> None:
    async def telling(tx: Transaction, items: Sequence[int]) -> list[int]:
        for item in items:
            if item > 1:
                tx.publish(UserRegistered(user=a_user()), Causation("flow"))
        return list(items)

    group = committer(telling)
    await group.submit(1)
    assert woken == []
    await asyncio.gather(group.submit(2), group.submit(3))
    assert woken == [1]


async def test_draining_waits_for_all_that_was_handed_in(
    committer: Make, doubling: Doubling
) -> None:
    group = committer()
    doubling.go_on.clear()
    futures = [group.submit(1)]
    await a_tick()
    futures.append(group.submit(2))
    draining = asyncio.create_task(group.drain())
    await a_tick()
    assert not draining.done()
    doubling.go_on.set()
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
def test_a_fault_of_the_work_itself_is_not_waited_out(error: Exception) -> None:
    assert not is_transient(error)
