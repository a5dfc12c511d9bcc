"""Orders, wired."""

import asyncio

from apps.orders.api import router
from apps.orders.consumers import inbox
from apps.orders.gauges import LateOrders
from apps.orders.watch import changes
from chassis.runtime.backlog import poll
from chassis.runtime.service import Service, create_app


async def watch_orders(service: Service) -> None:
    """Find outcomes that another replica of this service has heard."""
    await changes.look(service.database.pool)


async def count_late_orders(service: Service) -> None:
    """Keep the figures of orders that nobody has decided about."""
    await poll(service.database.pool, LateOrders().look)


async def end_waiting(service: Service) -> None:
    """Let go of whoever waits for an order once the process stops; a stop takes no longer for them."""
    await service.stopping.wait()
    changes.end()
    await asyncio.Event().wait()  # until the supervisor ends


app = create_app(
    "orders",
    __package__,
    description="Orders, from placed to paid, rejected or cancelled.",
    router=router,
    inbox=inbox,
    background=[watch_orders, count_late_orders, end_waiting],
)
