"""The composition root of notifications."""

from functools import partial

from apps.notifications import gauges
from apps.notifications.api import router
from apps.notifications.channels.email import email_channels
from apps.notifications.channels.mail_server import MailSettings
from apps.notifications.consumers import SUBSCRIPTIONS
from apps.notifications.dispatcher import Dispatcher
from chassis.runtime.backlog import poll
from chassis.runtime.service import Service, create_app
from chassis.runtime.settings import read


async def compose(service: Service) -> None:
    """Add a dispatcher for each channel, woken by every commit, and the gauges of open notifications."""
    pool, on_commit = service.database.pool, [service.relay.committed]
    email = Dispatcher(pool, "email", email_channels(read(MailSettings)), on_commit)
    service.on_commit.append(email.committed)
    service.run(email=email.run, notification_gauges=partial(poll, gauges.measure, pool))


app = create_app(
    "notifications",
    __package__,
    description="Notifications of joy, of sorrow and about refunds, and their delivery.",
    router=router,
    subscriptions=SUBSCRIPTIONS,
    compose=compose,
)
