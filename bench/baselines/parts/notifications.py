"""Notifications: stored once per order and kind, listed by Chorus' own routes, sent by `mailer`.

A notification needs its recipient, which users owns. Recipients are cached for a minute, so that few notifications need
a request; after a change of the address, notifications may go to the old one for a minute.
"""

import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from uuid_utils.compat import uuid7

from apps.notifications.api import list_notifications, view_notification
from apps.notifications.models import Notification, Recipient
from bench.baselines.common import written
from bench.baselines.parts import sql
from bench.baselines.parts.messages import Decision
from bench.baselines.parts.services import services
from chassis.database.transaction import Pool
from chassis.web.routing import StrictRoute
from events.base import Causation
from events.orders import OrderState
from events.users import UserState

CACHE_SECONDS: Final = 60.0
CACHED_USERS: Final = 50_000

router = APIRouter(prefix="/notification", route_class=StrictRoute)
router.add_api_route("/{notificationId}", view_notification, methods=["GET"])
router.add_api_route("", list_notifications, methods=["GET"])


class RecipientCache:
    """Recipients, cached for CACHE_SECONDS."""

    def __init__(self) -> None:
        self._known: dict[UUID, tuple[Recipient, float]] = {}

    async def recipient(self, user_id: UUID, cause: Causation) -> Recipient:
        """The recipient for a user. Raises ServiceUnavailableError or NotFoundError."""
        recipient, until = self._known.get(user_id, (None, 0.0))
        if recipient is None or until < time.monotonic():
            body = await services.get("users", f"/internal/user/{user_id}", cause)
            [recipient] = Recipient.copies([UserState.model_validate_json(body)])
            self._known.pop(user_id, None)
            while len(self._known) >= CACHED_USERS:
                del self._known[next(iter(self._known))]
            self._known[user_id] = (recipient, time.monotonic() + CACHE_SECONDS)
        return recipient


recipients: Final = RecipientCache()
"""One per process."""


async def write(pool: Pool, order: OrderState, decision: Decision, cause: Causation) -> None:
    """Store the notification about a decision. Idempotent.

    Raises ServiceUnavailableError if the recipient is not cached and users does not respond.
    """
    recipient = await recipients.recipient(order.user_id, cause)
    now = datetime.now(UTC)
    notification = Notification(
        id=uuid7(),
        user_id=order.user_id,
        order_id=order.id,
        kind="joy" if decision.status == "paid" else "sorrow",
        reason=decision.reason,
        amount=decision.amount,
        balance=decision.account.balance,
        currency=decision.account.currency,
        created_at=now,
        **cause._asdict(),
    )
    notification.render_for(recipient, now)
    await pool.execute(sql.insert(Notification), *sql.values(notification))
    written.set()
