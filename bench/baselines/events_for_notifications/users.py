"""Users, with events for notifications: it calls billing, and notifications calls it for addresses."""

from bench.baselines.common import create_app
from bench.baselines.parts import keys, users
from bench.baselines.parts.services import services

app = create_app(
    "users", [users.router, users.internal, keys.router], [services.open, keys.rotating]
)
