"""Billing, over HTTP only. It calls users for the signing keys."""

from bench.baselines.common import create_app
from bench.baselines.parts import billing, keys
from bench.baselines.parts.services import services

app = create_app("billing", [billing.router, billing.internal], [services.open, keys.refreshing])
