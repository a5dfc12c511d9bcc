"""Orders, wired."""

from apps.common.factory import Service, create_app
from apps.orders.api import router
from apps.orders.subscribers import inbox
from apps.orders.watch import changes


async def watch_orders(service: Service) -> None:
    """Find outcomes that another replica of this service has heard."""
    await changes.look(service.database.pool)


app = create_app(
    "orders",
    description="Orders, from placed to paid, rejected or cancelled.",
    router=router,
    inbox=inbox,
    background=[watch_orders],
)
