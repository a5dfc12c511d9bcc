"""What orders has published gives its table back: the newest state of each order."""

from collections.abc import Sequence
from typing import TypeAlias, cast

from apps.orders.models import AS_PLACED, Order
from chassis.database.transaction import Transaction
from chassis.messaging.recovery import Remark
from events.base import Envelope, Event
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected

Published: TypeAlias = OrderPlaced | OrderPaid | OrderRejected | OrderCancelled


async def recover(tx: Transaction, lost: Sequence[Envelope[Event]]) -> list[Remark]:
    """Write orders. One that has another outcome of the same version meanwhile stays as it is."""
    own = cast("Sequence[Envelope[Published]]", lost)
    own = sorted(own, key=lambda e: (e.event.order.version, e.time))
    first = {e.event.order.id: e.event.order for e in reversed(own)}
    await tx.insert_new([Order(**vars(o) | AS_PLACED) for o in first.values()])
    orders = await tx.lock(Order, first)
    remarks = []
    for envelope in own:
        now, order = envelope.event.order, orders[envelope.event.order.id]
        if now.version > order.version:
            order.status, order.reason, order.version = now.status, now.reason, now.version
            cancelled = now.status == "cancelled"
            order.settled_at = (order.settled_at if cancelled else None) or envelope.time
            order.corrections = max(0, now.version - 2 - cancelled)
        elif now.version == order.version and now.status != order.status:
            remarks.append(Remark(envelope.id, f"of order {now.id}: it is {order.status} now"))
    await tx.update(
        list(orders.values()), "status", "reason", "settled_at", "version", "corrections"
    )
    return remarks
