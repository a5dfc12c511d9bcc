"""What billing is made of."""

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.runtime.service import create_app

app = create_app(
    "billing",
    __package__,
    description="Accounts, money in and out, and the payment of every order.",
    router=router,
    subscriptions=SUBSCRIPTIONS,
)
