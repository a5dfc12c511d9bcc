"""The composition root of users."""

from apps.users.api import router
from apps.users.consumers import SUBSCRIPTIONS
from apps.users.keys import KeyRotation
from apps.users.limits import AttemptLimit
from apps.users.operator import configured_operator, create_operator
from apps.users.passwords import Passwords
from apps.users.tokens import KeyRing
from chassis.runtime.service import Service, create_app
from chassis.web.auth import Role


async def compose(service: Service) -> None:
    """Add signing keys, passwords and their limits; create the first operator."""
    passwords, key_ring = Passwords(), KeyRing()
    rotation = KeyRotation(service.database.pool, key_ring, [service.relay.committed])
    await rotation.start()
    roles: tuple[Role, ...] = ("operator", "viewer")
    for role in roles:
        if (operator := configured_operator(service.settings, role)) is not None:
            await create_operator(service, passwords, operator, role)
    limit = AttemptLimit(service.database.pool, service.settings)
    service.provide(passwords, key_ring, rotation, limit)
    service.run(key_rotation=rotation.run)


app = create_app(
    "users",
    __package__,
    description="Registration, sign-in, profiles, and the keys of access tokens.",
    router=router,
    subscriptions=SUBSCRIPTIONS,
    compose=compose,
)
