"""The events that billing consumes, each with the use case that handles it."""

from typing import Final

from apps.billing.models import Holder
from apps.billing.use_cases import charge_orders, open_accounts, refund_orders, store_holders
from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.web.auth import SigningKey, store_signing_keys
from events.orders import OrderCancelled, OrderPlaced
from events.users import SigningKeyPublished, UserRegistered, UserUpdated

SUBSCRIPTIONS: Final[Subscriptions] = (
    Subscription(UserRegistered, open_accounts, Holder, store_holders),
    Subscription(UserUpdated, open_accounts, Holder, store_holders),
    Subscription(SigningKeyPublished, store_signing_keys, SigningKey),
    Subscription(OrderPlaced, charge_orders),
    Subscription(OrderCancelled, refund_orders),
)
