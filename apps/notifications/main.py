"""The composition root of notifications."""

from apps.notifications import gauges
from apps.notifications.api import router
from apps.notifications.channels.email import email_channels
from apps.notifications.channels.mime import Sender
from apps.notifications.consumers import inbox
from apps.notifications.dispatcher import Dispatcher
from chassis.runtime.backlog import poll
from chassis.runtime.service import Service, create_app


async def check_sender(service: Service) -> None:
    """Refuse to start with a sender that is not one e-mail address."""
    Sender.of(service.settings.mail_from)


async def deliver_by_email(service: Service) -> None:
    """Deliver notifications by e-mail when they are due. A further channel is a further dispatcher."""
    connect = email_channels(service.settings)
    await Dispatcher(service.database.pool, "email", connect, service.relay.wake).run()


async def count_open(service: Service) -> None:
    """Keep the metrics of open notifications current."""
    await poll(service.database.pool, gauges.count_open)


app = create_app(
    "notifications",
    description="Notifications of joy, of sorrow and about refunds, and their delivery by e-mail.",
    router=router,
    inbox=inbox,
    prepare=check_sender,
    background=[deliver_by_email, count_open],
)
