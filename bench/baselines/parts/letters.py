"""Letters, for notifications: written once per order and kind, listed as Chorus lists them, sent by `mailer`.

A letter needs its recipient, whom users knows. An address book remembers users for a minute, so that hardly a letter
has to ask; whoever changes his address within that minute may get one more letter at the old one.
"""

import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from uuid_utils.compat import uuid7

from apps.notifications.api import list_notifications, view_notification
from apps.notifications.bell import bell
from apps.notifications.models import Notification, Recipient
from bench.baselines.parts import sql
from bench.baselines.parts.callees import callees
from bench.baselines.parts.documents import Decision
from chassis.database.transaction import Pool
from chassis.web.routing import StrictRoute
from events.base import Causation
from events.orders import OrderState
from events.users import UserState

REMEMBERED_SECONDS: Final = 60.0
REMEMBERED_USERS: Final = 50_000

router = APIRouter(prefix="/notification", route_class=StrictRoute)
router.add_api_route("/{notificationId}", view_notification, methods=["GET"])
router.add_api_route("", list_notifications, methods=["GET"])


class AddressBook:
    """Users as users told of them not long ago."""

    def __init__(self) -> None:
        self._known: dict[UUID, tuple[Recipient, float]] = {}

    async def recipient(self, user_id: UUID, cause: Causation) -> Recipient:
        """A user who gets a letter. Raises CalleeAwayError or UnknownError."""
        recipient, until = self._known.get(user_id, (None, 0.0))
        if recipient is None or until < time.monotonic():
            body = await callees.get("users", f"/internal/user/{user_id}", cause)
            [recipient] = Recipient.copies([UserState.model_validate_json(body)])
            self._known.pop(user_id, None)
            while len(self._known) >= REMEMBERED_USERS:
                del self._known[next(iter(self._known))]
            self._known[user_id] = (recipient, time.monotonic() + REMEMBERED_SECONDS)
        return recipient


address_book: Final = AddressBook()
"""One per process."""


async def write(pool: Pool, order: OrderState, decision: Decision, cause: Causation) -> None:
    """Write the letter about what was decided. Written again, it stays as it is.

    Raises CalleeAwayError if users must be asked and does not answer.
    """
    recipient = await address_book.recipient(order.user_id, cause)
    now = datetime.now(UTC)
    notification = Notification.about(
        "joy" if decision.status == "paid" else "sorrow",
        order,
        decision.amount,
        decision.account,
        id=uuid7(),
        cause=cause,
        now=now,
        reason=decision.reason,
    )
    notification.render_for(recipient, now)
    await pool.execute(sql.insert(Notification), *sql.values(notification))
    bell.ring()
