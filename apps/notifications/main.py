"""Notifications, wired."""

from apps.common.factory import Service, create_app
from apps.common.gauges import keep_looking
from apps.notifications import gauges
from apps.notifications.api import router
from apps.notifications.mailer import Mailer
from apps.notifications.mime import Sender
from apps.notifications.subscribers import inbox


async def check_the_sender(service: Service) -> None:
    """Do not start with a sender that no mail server would take."""
    Sender.of(service.settings.mail_from)


async def send_letters(service: Service) -> None:
    """Send letters as they become due."""
    await Mailer(service.database.pool, service.settings, service.relay.wake).run()


async def count_letters(service: Service) -> None:
    """Keep the figures of open letters."""
    await keep_looking(service.database.pool, gauges.look)


app = create_app(
    "notifications",
    description="Letters of joy, of sorrow and about refunds, and the mail that carries them.",
    router=router,
    inbox=inbox,
    prepare=check_the_sender,
    background=[send_letters, count_letters],
)
