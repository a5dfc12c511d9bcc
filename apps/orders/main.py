"""The composition root of orders."""

from functools import partial

from apps.orders.admission import Admission
from apps.orders.api import router
from apps.orders.consumers import SUBSCRIPTIONS
from apps.orders.late_orders import LateOrders
from apps.orders.updates import OrderUpdates
from chassis.runtime.backlog import poll
from chassis.runtime.service import Service, create_app


async def compose(service: Service) -> None:
    """Add admission control, updates for waiting clients, and the gauges of late orders."""
    admission = Admission()
    updates = OrderUpdates(service.database.pool, service.on_commit)
    late_orders = LateOrders(service.database.pool)
    service.provide(admission, updates)
    service.on_commit.append(admission.committed)
    service.run(
        order_updates=updates.poll,
        end_of_updates=partial(updates.end, service.stopping),
        late_order_gauges=partial(poll, late_orders.measure),
    )


app = create_app(
    "orders",
    __package__,
    description="Orders, from placed to paid, rejected or cancelled.",
    router=router,
    subscriptions=SUBSCRIPTIONS,
    compose=compose,
)
