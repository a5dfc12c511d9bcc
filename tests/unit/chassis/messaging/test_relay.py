"""When the relay reads the outbox."""

import asyncio
from typing import Any, cast
from unittest.mock import AsyncMock
from uuid import UUID

import pytest

from chassis.database.transaction import Transaction
from chassis.messaging import relay as relay_module
from chassis.messaging.relay import Relay
from events.base import Causation
from events.users import UserRegistered
from tests.support.builders import a_user, now
from tests.support.eventually import eventually


class NoConnection:
    """Nothing is sent to a database."""


def a_transaction(*events: UserRegistered) -> Transaction:
    tx = Transaction(cast(Any, NoConnection()), now())
    for event in events:
        tx.publish(event, Causation("flow"))
    return tx


class TestRelay:
    async def test_the_relay_is_woken_by_a_transaction_with_events_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        relay = Relay(cast(Any, None), cast(Any, None))
        woken: list[bool] = []
        monkeypatch.setattr(relay, "wake", lambda: woken.append(True))
        relay.committed(a_transaction())
        assert woken == []
        relay.committed(a_transaction(UserRegistered(user=a_user(id=UUID(int=1)))))
        assert woken == [True]

    async def test_a_wake_during_a_move_is_not_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(relay_module, "SWEEP_SECONDS", 3600.0)
        relay, moves, again = Relay(cast(Any, None), AsyncMock()), 0, asyncio.Event()

        async def move(_limit: int) -> int:
            nonlocal moves
            moves += 1
            if moves == 1:
                relay.wake()
            else:
                again.set()
            return 0

        monkeypatch.setattr(relay, "move", move)
        running = asyncio.create_task(relay.run())
        async with asyncio.timeout(5):
            await again.wait()
        running.cancel()
        await asyncio.wait([running])

    async def test_a_round_that_does_not_end_is_a_fault_until_it_ends(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "ROUND_SECONDS", -1.0)
        relay, begun, end = Relay(cast(Any, None), AsyncMock()), asyncio.Event(), asyncio.Event()

        async def move(_limit: int) -> int:
            begun.set()
            await end.wait()
            monkeypatch.setattr(relay_module, "ROUND_SECONDS", 3600.0)
            return 0

        monkeypatch.setattr(relay, "move", move)
        assert await relay.fault() == ""
        running = asyncio.create_task(relay.run())
        await begun.wait()
        assert await relay.fault() == "stuck"
        end.set()
        relay.wake()

        async def goes_on() -> bool:
            return await relay.fault() == ""

        await eventually(goes_on)
        running.cancel()
        await asyncio.wait([running])
