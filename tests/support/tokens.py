"""Access tokens as users issues them, signed with a key pair of the tests' own."""

import base64
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chassis.web.auth import ALGORITHM, AUDIENCE, ISSUER, Role
from events.users import PublicKey, SigningKeyPublished


class Signer:
    """A signing key and the tokens that it makes."""

    def __init__(self, key_id: str = "tests-1") -> None:
        self.key_id = key_id
        self.private = Ed25519PrivateKey.generate()
        raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def published(self, valid: timedelta = timedelta(days=1)) -> SigningKeyPublished:
        """The event that makes services trust this key."""
        return SigningKeyPublished(
            key_id=self.key_id, jwk=PublicKey(x=self.x), valid_until=datetime.now(UTC) + valid
        )

    def token(self, user_id: UUID, role: Role = "user", **claims: Any) -> str:
        """A token for a user. `claims` replace its claims; a claim that is None is left out."""
        now = int(time.time())
        standard = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "iat": now,
            "exp": now + 3600,
            "role": role,
        }
        payload = {name: value for name, value in (standard | claims).items() if value is not None}
        return jwt.encode(payload, self.private, ALGORITHM, headers={"kid": self.key_id})
