"""Notifications about orders that others may have been written about: refunds, and what billing decides anew.

Nearly every payment and rejection is the first outcome of its order, so its use case writes without a look. If another
notification has the place, that fails as a whole, and the batch is handled here.
"""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from apps.notifications.models import Notification
from apps.notifications.use_cases import create
from chassis.database.transaction import Transaction
from chassis.messaging.contradictions import report
from events.base import Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded


async def follow_payments(tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]) -> None:
    """Create notifications of joy, as corrections of what was written otherwise."""
    await _follow(tx, [Notification.joy(e, tx.new_id(), tx.now) for e in received])


async def follow_rejections(tx: Transaction, received: Sequence[Envelope[PaymentRejected]]) -> None:
    """Create notifications of sorrow, as corrections of what was written otherwise."""
    await _follow(tx, [Notification.sorrow(e, tx.new_id(), tx.now) for e in received])


async def notify_of_refunds(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """Create notifications of refunds: the money for these orders is back on its account."""
    await _follow(tx, [Notification.refund(e, tx.new_id(), tx.now) for e in received])


async def _follow(tx: Transaction, news: Sequence[Notification]) -> None:
    """Create notifications about orders, each with its place after those that there are.

    If a concurrent transaction creates one for the same place, this one fails, and is repeated after it.
    """
    found = await tx.load_all(Notification, [n.order_id for n in news], key="order_id")
    known: defaultdict[UUID | None, list[Notification]] = defaultdict(list)
    stored = await tx.lock(Notification, [n.id for n in found])
    for one in stored.values():
        known[one.order_id].append(one)
    new = []
    for one in news:
        novelty = one.follow(known[one.order_id])
        if novelty in ("correction", "outdated"):
            report(tx, "notifications", order_id=one.order_id, received=one.kind, taken_as=novelty)
        if novelty in ("new", "correction"):
            known[one.order_id].append(one)
            new.append(one)
    await tx.update(list(stored.values()), "decided_at")
    await create(tx, new)
