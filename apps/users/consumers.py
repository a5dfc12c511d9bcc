"""The events that users consumes: its own signing keys, which every service stores."""

from typing import Final

from chassis.messaging.consumer import Subscription, Subscriptions
from chassis.web.auth import SigningKey, store_signing_keys
from events.users import SigningKeyPublished

SUBSCRIPTIONS: Final[Subscriptions] = (
    Subscription(SigningKeyPublished, store_signing_keys, SigningKey),
)
