"""What orders has published is written to a restored database."""

from typing import Final, get_args

import pytest
from uuid_utils.compat import uuid7

from apps.orders.models import Order
from apps.orders.recovery import Published, recover
from chassis.database.transaction import transaction
from chassis.messaging.recovery import recover_events
from events.base import Causation, Envelope
from events.orders import (
    OrderCancelled,
    OrderPaid,
    OrderPlaced,
    OrderRejected,
    OrderState,
    OrderStatus,
)
from tests.support.builders import an_order, now
from tests.support.harness import RunningService

KINDS: Final[dict[OrderStatus, type[Published]]] = {
    "pending": OrderPlaced,
    "paid": OrderPaid,
    "rejected": OrderRejected,
    "cancelled": OrderCancelled,
}


@pytest.mark.parametrize("status", get_args(OrderStatus))
async def test_a_lost_order_has_every_field_of_its_last_event(
    orders: RunningService, status: OrderStatus
) -> None:
    """In another currency too: whatever orders may have some day, none is made up."""
    placed = an_order().model_copy(update={"currency": "XTS"})
    reason = "no money" if status == "rejected" else None
    last = placed.model_copy(update={"status": status, "reason": reason, "version": 2})
    last = placed if status == "pending" else last
    states: dict[type[Published], OrderState] = {OrderPlaced: placed, KINDS[status]: last}
    lost = [
        Envelope(uuid7(), kind(order=s), now(), Causation("lost")) for kind, s in states.items()
    ]
    pool = orders.service.database.pool
    assert await recover_events(pool, recover, lost) == []
    async with transaction(pool) as tx:
        found = (await tx.load(Order, [placed.id]))[placed.id]
    assert found.state() == last
    assert found.history()[-1] == lost[-1].event


async def test_a_corrected_order_is_corrected_again(orders: RunningService) -> None:
    placed = an_order()
    states = [
        placed.model_copy(update={"status": status, "version": version})
        for version, status in enumerate(("pending", "paid", "rejected"), 1)
    ]
    lost = [
        Envelope(uuid7(), KINDS[state.status](order=state), now(), Causation("lost"))
        for state in states
    ]
    pool = orders.service.database.pool
    assert await recover_events(pool, recover, lost) == []
    async with transaction(pool) as tx:
        found = (await tx.load(Order, [placed.id]))[placed.id]
    assert (found.state(), found.corrections) == (states[-1], 1)
    assert found.settled_at == lost[-1].time
