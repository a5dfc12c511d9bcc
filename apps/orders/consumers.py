"""The events that orders consumes, each with the use case that handles it."""

from typing import Final

from apps.orders.models import Customer
from apps.orders.use_cases import mark_paid, mark_refunded, mark_rejected, store_customers
from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.web.auth import SigningKey, store_signing_keys
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import SigningKeyPublished, UserRegistered, UserUpdated

SUBSCRIPTIONS: Final[Subscriptions] = (
    Subscription(UserRegistered, store_customers, Customer),
    Subscription(UserUpdated, store_customers, Customer),
    Subscription(SigningKeyPublished, store_signing_keys, SigningKey),
    Subscription(PaymentSucceeded, mark_paid),
    Subscription(PaymentRejected, mark_rejected),
    Subscription(PaymentRefunded, mark_refunded),
)
