"""The composition root of billing."""

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.runtime.service import create_app

app = create_app(
    "billing",
    __package__,
    description="Accounts, deposits and withdrawals, and the payment of every order.",
    router=router,
    subscriptions=SUBSCRIPTIONS,
)
