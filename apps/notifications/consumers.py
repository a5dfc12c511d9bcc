"""The events that notifications consumes, each with the use case that handles it."""

from typing import Final

from apps.notifications.corrections import follow_payments, follow_rejections, notify_of_refunds
from apps.notifications.models import Recipient
from apps.notifications.use_cases import notify_of_payments, notify_of_rejections, save_recipients
from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.web.auth import SigningKey, store_signing_keys
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.users import SigningKeyPublished, UserRegistered, UserUpdated

SUBSCRIPTIONS: Final[Subscriptions] = (
    Subscription(UserRegistered, save_recipients, Recipient),
    Subscription(UserUpdated, save_recipients, Recipient),
    Subscription(SigningKeyPublished, store_signing_keys, SigningKey),
    Subscription(PaymentSucceeded, notify_of_payments, fallback=follow_payments),
    Subscription(PaymentRejected, notify_of_rejections, fallback=follow_rejections),
    Subscription(PaymentRefunded, notify_of_refunds),
)
