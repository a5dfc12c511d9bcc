"""What a service does after each COMMIT of a request or a message."""

from typing import Any, cast
from uuid import UUID

import pytest
from fastapi import FastAPI

from chassis.database.transaction import Transaction
from chassis.messaging.relay import Relay
from chassis.runtime.service import Service
from events.base import Causation
from events.users import UserRegistered
from tests.support.builders import a_user, now


class NoConnection:
    """Nothing is sent to a database."""


def a_transaction(*events: UserRegistered) -> Transaction:
    tx = Transaction(cast(Any, NoConnection()), now())
    for event in events:
        tx.publish(event, Causation("flow"))
    return tx


class TestCommitted:
    @pytest.fixture
    async def service(self) -> Service:
        async def compose(service: Service) -> None:
            """Nothing."""

        service = Service(FastAPI(), "users", (), compose)
        service.relay = Relay(cast(Any, None), cast(Any, None))
        return service

    async def test_the_relay_is_woken_by_a_transaction_with_events_only(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[bool] = []
        monkeypatch.setattr(service.relay, "wake", lambda: woken.append(True))
        service.committed(a_transaction())
        assert woken == []
        service.committed(a_transaction(UserRegistered(user=a_user(id=UUID(int=1)))))
        assert woken == [True]

    async def test_every_callback_gets_the_events_of_the_transaction(
        self, service: Service
    ) -> None:
        seen: list[list[Any]] = []
        service.on_commit += [lambda tx: seen.append(tx.events)] * 2
        event = UserRegistered(user=a_user(id=UUID(int=1)))
        service.committed(a_transaction(event))
        assert seen == [[event], [event]]
