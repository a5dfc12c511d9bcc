"""What users has published gives its tables back, but for passwords, roles and private keys, which no event carries."""

from collections.abc import Sequence
from typing import Final, cast

from apps.users.models import Profile, User
from chassis.database.transaction import Transaction
from chassis.messaging.recovery import Remark
from chassis.web.auth import store_signing_keys
from events.base import Envelope, Event
from events.users import SigningKeyPublished, UserRegistered, UserState, UserUpdated

NO_HASH: Final = "lost"
"""In the place of a password's hash: no password matches it."""


async def recover(tx: Transaction, lost: Sequence[Envelope[Event]]) -> list[Remark]:
    """Write users, one by one, as an address may pass from one to another; and the keys that tokens are verified with.

    A user that is new here has no password, and is not an operator.
    """
    remarks = [
        await _user(tx, envelope, envelope.event.user)
        for envelope in lost
        if isinstance(envelope.event, UserRegistered | UserUpdated)
    ]
    keys = [envelope for envelope in lost if isinstance(envelope.event, SigningKeyPublished)]
    await store_signing_keys(tx, cast("Sequence[Envelope[SigningKeyPublished]]", keys))
    return [remark for remark in remarks if remark]


async def _user(tx: Transaction, envelope: Envelope[Event], state: UserState) -> Remark | None:
    known = (await tx.lock(User, [state.id])).get(state.id)
    if known is not None and known.version >= state.version:
        return None
    holder = (await tx.load(User, [state.email], key="email")).get(state.email)
    if holder is not None and holder.id != state.id:
        text = f"of user {state.id} is refused: user {holder.id} has the address"
        return Remark(envelope.id, text)
    if known is not None:
        vars(known).update(vars(state), updated_at=envelope.time)
        await tx.update([known], *Profile._fields, "version", "updated_at")
        return None
    profile = Profile(state.email, state.name, state.locale)
    made = User.register(state.id, profile, NO_HASH, "user", envelope.time)
    made.version = state.version
    await tx.insert([made])
    return Remark(envelope.id, f"of user {state.id}: the password is lost", written=True)
