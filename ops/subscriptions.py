"""What every service subscribes to, and the topology that follows from it."""

import importlib
from typing import Final

from apps import SERVICES
from chassis.messaging.consumer import Subscriptions
from chassis.messaging.topology import topology
from events.base import Event


def _subscriptions(service: str) -> Subscriptions:
    found: Subscriptions = importlib.import_module(f"apps.{service}.consumers").SUBSCRIPTIONS
    return found


SUBSCRIPTIONS: Final[dict[str, tuple[type[Event], ...]]] = {
    service: tuple(one.event for one in _subscriptions(service)) for service in SERVICES
}
"""The events that each service consumes, as its `consumers.py` declares them."""

TOPOLOGY: Final = topology(SUBSCRIPTIONS)
