"""What notifications is made of."""

from functools import partial

from apps.notifications import gauges
from apps.notifications.api import router
from apps.notifications.consumers import SUBSCRIPTIONS
from apps.notifications.mailer import Mailer
from chassis.runtime.backlog import poll
from chassis.runtime.service import Service, create_app


async def compose(service: Service) -> None:
    """Add the mailer, woken by every transaction that may have written notifications, and its gauges."""
    pool = service.database.pool
    mailer = Mailer(pool, service.settings, service.relay.committed)
    service.on_commit(mailer.committed)
    service.run(mailer=mailer.run, notification_gauges=partial(poll, partial(gauges.measure, pool)))


app = create_app(
    "notifications",
    description="Letters of joy, of sorrow and about refunds, and the mail that carries them.",
    router=router,
    subscriptions=SUBSCRIPTIONS,
    compose=compose,
)
