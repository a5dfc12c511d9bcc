"""Users, wired."""

from apps.users.api import router
from apps.users.consumers import inbox
from apps.users.upkeep import keep_signing_keys, prepare
from chassis.runtime.service import create_app

app = create_app(
    "users",
    __package__,
    description="Who there is: registration, sign-in, profiles, and the keys of the tokens.",
    router=router,
    inbox=inbox,
    prepare=prepare,
    background=[keep_signing_keys],
)
