"""Access tokens, signed with keys in memory. `chassis.web.auth` verifies them."""

from collections.abc import Sequence
from datetime import datetime

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.users.models import TOKEN_LIFETIME, KeyPair, User
from chassis.web.auth import ALGORITHM, AUDIENCE, ISSUER
from chassis.web.problems import Unavailable


class KeyRing:
    """The valid signing keys at the last rotation."""

    def __init__(self) -> None:
        self._held: list[tuple[KeyPair, Ed25519PrivateKey]] = []

    def hold(self, pairs: Sequence[KeyPair]) -> None:
        """Replace the keys."""
        by_age = sorted(pairs, key=lambda pair: pair.valid_until)
        self._held = [(pair, pair.signing_key()) for pair in by_age]

    @property
    def ids(self) -> set[str]:
        """The ids of the keys."""
        return {pair.key_id for pair, _ in self._held}

    def token(self, user: User, now: datetime) -> str:
        """A token for a user. Raises Unavailable if no key is valid as long as the token.

        The oldest such key signs it: a new key has days to reach every service before it is used.
        """
        for pair, key in self._held:
            if pair.lasts(TOKEN_LIFETIME, now):
                issued = int(now.timestamp())
                claims = {
                    "iss": ISSUER,
                    "aud": AUDIENCE,
                    "sub": str(user.id),
                    "iat": issued,
                    "exp": issued + int(TOKEN_LIFETIME.total_seconds()),
                    "role": user.role,
                }
                return jwt.encode(claims, key, ALGORITHM, headers={"kid": pair.key_id})
        raise Unavailable("There is no valid signing key.")
