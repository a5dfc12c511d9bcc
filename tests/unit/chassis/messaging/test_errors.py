"""What a lost connection to the broker raises."""

import asyncio

import pytest
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity

from chassis.messaging.errors import connection_may_be_lost


@pytest.mark.parametrize(
    "error",
    [ChannelInvalidStateError(), StopAsyncIteration(), asyncio.CancelledError(), Exception()],
    ids=lambda error: type(error).__name__,
)
async def test_a_lost_connection_is_an_oserror(error: BaseException) -> None:
    with pytest.raises(ConnectionError, match="lost"), connection_may_be_lost():
        raise error


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), ChannelNotFoundEntity(), ValueError("a fault of ours")]
)
async def test_any_other_error_passes_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, connection_may_be_lost():
        raise error
    assert raised.value is error


async def test_a_cancellation_while_a_connection_is_lost_is_a_cancellation() -> None:
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
