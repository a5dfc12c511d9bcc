"""The group committer when a batch fails or its COMMIT is not answered."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from chassis.database.errors import CommitUnknownError
from chassis.database.group_commit import GroupCommitter
from chassis.database.transaction import Transaction
from tests.support.fake_postgres import Server
from tests.unit.chassis.database.conftest import Doubling, Make


class TestFallback:
    """A batch that fails in the fast path is passed to the fallback."""

    @pytest.fixture
    def fast(self) -> list[list[int]]:
        """The batches of the fast path."""
        return []

    @pytest.fixture
    async def group(
        self, committer: Make, doubling: Doubling, fast: list[list[int]]
    ) -> GroupCommitter[int, Any]:
        async def even_ones(tx: Transaction, items: Sequence[int]) -> list[int]:
            fast.append(list(items))
            if any(item > 100 for item in items) and len(fast) == 1:
                raise OSError("unavailable")
            if any(item % 2 for item in items):
                raise asyncpg.UniqueViolationError("odd")
            return [item * 2 for item in items]

        return committer(even_ones, fallback=doubling)

    async def test_the_fallback_is_not_called_after_a_success(
        self, group: GroupCommitter[int, Any], doubling: Doubling
    ) -> None:
        assert list(await asyncio.gather(group.submit(2), group.submit(4))) == [4, 8]
        assert doubling.batches == []

    async def test_a_failed_batch_is_passed_to_the_fallback_whole(
        self, group: GroupCommitter[int, Any], doubling: Doubling, fast: list[list[int]]
    ) -> None:
        assert list(await asyncio.gather(*map(group.submit, [2, 3, 4]))) == [4, 6, 8]
        assert fast == doubling.batches == [[2, 3, 4]]

    async def test_after_a_transient_error_the_fast_path_is_tried_again(
        self, group: GroupCommitter[int, Any], doubling: Doubling, fast: list[list[int]]
    ) -> None:
        assert await group.submit(102) == 204
        assert fast == [[102]] * 2
        assert doubling.batches == []

    async def test_the_fallback_remains_for_a_conflict_after_a_transient_error(
        self, group: GroupCommitter[int, Any], doubling: Doubling, fast: list[list[int]]
    ) -> None:
        """Another transaction may use the same key while a request waits for the database."""
        assert await group.submit(103) == 206
        assert fast == [[103]] * 2
        assert doubling.batches == [[103]]

    async def test_an_item_that_fails_in_both_fails_alone(
        self, group: GroupCommitter[int, Any]
    ) -> None:
        results = await asyncio.gather(*map(group.submit, [2, -1, 4]), return_exceptions=True)
        assert results[::2] == [4, 8]
        assert isinstance(results[1], ValueError)


class TestCommitUnknown:
    """The connection is lost during COMMIT, so the transaction may be durable or not."""

    FAULTS = (
        ConnectionResetError(),
        asyncpg.ConnectionDoesNotExistError("closed"),
        asyncpg.AdminShutdownError("terminating"),
        asyncpg.InterfaceError("closed"),
    )

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
    async def test_with_a_timeout_it_is_raised_and_not_retried(
        self, committer: Make, server: Server, doubling: Doubling, fault: Exception
    ) -> None:
        group = committer(timeout=5)
        server.commit_faults = [fault]
        results = await asyncio.gather(group.submit(1), group.submit(2), return_exceptions=True)
        assert [type(result) for result in results] == [CommitUnknownError] * 2
        assert doubling.batches == [[1, 2]]

    async def test_without_a_timeout_the_batch_is_retried(
        self, committer: Make, server: Server, doubling: Doubling
    ) -> None:
        server.commit_faults = [ConnectionResetError()]
        assert await committer().submit(1) == 2
        assert doubling.batches == [[1], [1]]

    async def test_a_commit_refused_by_the_server_is_raised_as_it_is(
        self, committer: Make, server: Server
    ) -> None:
        server.commit_faults = [asyncpg.IntegrityConstraintViolationError("deferred")]
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await committer(timeout=5).submit(1)
