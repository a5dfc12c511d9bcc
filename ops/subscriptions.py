"""What every service subscribes to, and the topology that follows from it."""

import importlib
from typing import Final

from apps import SERVICES
from chassis.messaging.topology import topology
from events.base import Event

SUBSCRIPTIONS: Final[dict[str, tuple[type[Event], ...]]] = {
    service: tuple(
        one.event for one in importlib.import_module(f"apps.{service}.consumers").SUBSCRIPTIONS
    )
    for service in SERVICES
}
"""The events that each service consumes, as its `consumers.py` declares them."""

TOPOLOGY: Final = topology(SUBSCRIPTIONS)
