"""Billing, over HTTP only. It calls nobody."""

from bench.baselines.common import create_app
from bench.baselines.parts import billing, keys
from bench.baselines.parts.callees import callees

app = create_app("billing", [billing.router, billing.internal], [callees.open, keys.fetched])
