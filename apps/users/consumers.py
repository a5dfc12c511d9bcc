"""Door 2: what users hears. Only its own SigningKeyPublished, which every service hears in the same way."""

from chassis.messaging.consumer import Inbox

inbox = Inbox("users")
