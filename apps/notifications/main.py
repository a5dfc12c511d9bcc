"""Notifications, wired."""

from apps.notifications import gauges
from apps.notifications.api import router
from apps.notifications.consumers import inbox
from apps.notifications.mailer import Mailer
from apps.notifications.mime import Sender
from chassis.runtime.backlog import poll
from chassis.runtime.service import Service, create_app


async def check_the_sender(service: Service) -> None:
    """Do not start with a sender that no mail server would take."""
    Sender.of(service.settings.mail_from)


async def send_letters(service: Service) -> None:
    """Send letters as they become due."""
    await Mailer(service.database.pool, service.settings, service.relay.wake).run()


async def count_letters(service: Service) -> None:
    """Keep the figures of open letters."""
    await poll(service.database.pool, gauges.look)


app = create_app(
    "notifications",
    __package__,
    description="Letters of joy, of sorrow and about refunds, and the mail that carries them.",
    router=router,
    inbox=inbox,
    prepare=check_the_sender,
    background=[send_letters, count_letters],
)
