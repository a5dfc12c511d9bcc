"""Users, wired."""

from apps.common.factory import create_app
from apps.users.api import router
from apps.users.subscribers import inbox
from apps.users.upkeep import keep_signing_keys, prepare

app = create_app(
    "users",
    description="Who there is: registration, sign-in, profiles, and the keys of the tokens.",
    router=router,
    inbox=inbox,
    prepare=prepare,
    background=[keep_signing_keys],
)
