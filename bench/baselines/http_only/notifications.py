"""Notifications, over HTTP only: stores the notifications that orders requests.

The response follows after the notification is stored. It is 503 if users, which owns the address, is unavailable;
orders then retries.
"""

from fastapi import APIRouter, Request

from bench.baselines.common import cause_of, create_app, service_of
from bench.baselines.parts import keys, notifications
from bench.baselines.parts.mailer import sending
from bench.baselines.parts.messages import NotificationRequest
from bench.baselines.parts.services import ServiceUnavailableError, services
from chassis.web.problems import Unavailable

internal = APIRouter(prefix="/internal")


@internal.post("/notification", status_code=204)
async def write_notification(request: Request) -> None:
    """Store the notification about a decision. Idempotent."""
    wanted = NotificationRequest.model_validate_json(await request.body())
    pool = service_of(request).database.pool
    try:
        await notifications.write(pool, wanted.order, wanted.decision, cause_of(request))
    except ServiceUnavailableError as error:
        raise Unavailable(str(error)) from None


app = create_app(
    "notifications", [notifications.router, internal], [services.open, keys.refreshing, sending]
)
