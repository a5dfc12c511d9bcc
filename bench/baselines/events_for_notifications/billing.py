"""Billing, with events for notifications: orders and notifications call it."""

from bench.baselines.common import create_app
from bench.baselines.parts import billing, keys
from bench.baselines.parts.services import services

app = create_app("billing", [billing.router, billing.internal], [services.open, keys.refreshing])
