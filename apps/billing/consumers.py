"""The events that billing consumes, each with the use case that handles it."""

from typing import Final

from apps.billing.use_cases import charge_orders, open_accounts, refund_orders
from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.web.auth import store_signing_keys
from events.orders import OrderCancelled, OrderPlaced
from events.users import SigningKeyPublished, UserRegistered, UserUpdated

SUBSCRIPTIONS: Final[Subscriptions] = (
    Subscription(UserRegistered, open_accounts),
    Subscription(UserUpdated, open_accounts),
    Subscription(SigningKeyPublished, store_signing_keys),
    Subscription(OrderPlaced, charge_orders),
    Subscription(OrderCancelled, refund_orders),
)
