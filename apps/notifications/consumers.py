"""The events that notifications consumes, each with the use case that handles it."""

from typing import Final

from apps.notifications.use_cases import store_recipients, write_joy, write_refund, write_sorrow
from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.web.auth import store_signing_keys
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import SigningKeyPublished, UserRegistered, UserUpdated

SUBSCRIPTIONS: Final[Subscriptions] = (
    Subscription(UserRegistered, store_recipients),
    Subscription(UserUpdated, store_recipients),
    Subscription(SigningKeyPublished, store_signing_keys),
    Subscription(PaymentSucceeded, write_joy),
    Subscription(PaymentRejected, write_sorrow),
    Subscription(PaymentRefunded, write_refund),
)
