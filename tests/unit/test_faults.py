"""Which faults of a server are worth another try, and what tells that a connection is lost."""

import asyncio

import asyncpg
import pytest
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity

from chassis.database.errors import CommitUnknownError, is_transient
from chassis.messaging.errors import connection_may_be_lost


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.AdminShutdownError("terminated"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15"),
        CommitUnknownError("lost"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_goes_away_is_waited_for(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError("doubled"),
        asyncpg.CheckViolationError("below zero"),
        asyncpg.UndefinedTableError("no such table"),
        ValueError("a fault of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_work_itself_is_not(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    "error",
    [ChannelInvalidStateError(), StopAsyncIteration(), asyncio.CancelledError(), Exception()],
    ids=lambda error: type(error).__name__,
)
async def test_a_connection_that_is_lost_is_an_oserror(error: BaseException) -> None:
    with pytest.raises(ConnectionError, match="lost"), connection_may_be_lost():
        raise error


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), ChannelNotFoundEntity(), ValueError("a fault of ours")]
)
async def test_any_other_error_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, connection_may_be_lost():
        raise error
    assert raised.value is error


async def test_who_is_cancelled_while_a_connection_is_lost_is_cancelled() -> None:
    async def lose() -> None:
        with connection_may_be_lost():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise StopAsyncIteration from None

    losing = asyncio.create_task(lose())
    await asyncio.sleep(0)
    losing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await losing
