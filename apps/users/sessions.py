"""Refresh tokens: opaque, of two random parts. Users stores the SHA-256 of each part, never the token.

The first part names the session (the family of its tokens) and stays; each rotation replaces the second. So a token
that was replaced is recognised without a row for each.
"""

import base64
import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Annotated, Final, NamedTuple, Self
from uuid import UUID

from pydantic import Field as Constraint
from sqlmodel import Field

from chassis.database.tables import Table
from chassis.web.problems import Unauthorized

SESSION_LIFETIME: Final = timedelta(days=30)
"""From the login on; rotation does not prolong it (NIST SP 800-63B, 2.1.3)."""

REPEAT_SECONDS: Final = 10.0
"""How long a token that was replaced may be sent again: the answer with its successor was lost."""

FAMILY_BYTES: Final = 16
SECRET_BYTES: Final = 32

RefreshTokenText = Annotated[
    str,
    Constraint(
        pattern=r"^[A-Za-z0-9_-]{64}$",
        examples=["A" * 64],
        json_schema_extra={"format": "password"},
    ),
]


class InvalidRefreshToken(Unauthorized, reason="invalid_refresh_token"):
    """The session of this refresh token is over. Sign in again."""


class RefreshToken(NamedTuple):
    """A refresh token. Its secret is in memory only."""

    family: bytes
    secret: bytes

    @classmethod
    def make(cls) -> Self:
        """The first token of a new session."""
        return cls(secrets.token_bytes(FAMILY_BYTES), secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token of a text of RefreshTokenText's pattern."""
        raw = base64.urlsafe_b64decode(text)
        return cls(raw[:FAMILY_BYTES], raw[FAMILY_BYTES:])

    def successor(self) -> Self:
        """The token that may take its place."""
        return self._replace(secret=secrets.token_bytes(SECRET_BYTES))

    @property
    def text(self) -> str:
        """The token as clients get it: 64 characters."""
        return base64.urlsafe_b64encode(self.family + self.secret).decode()

    @property
    def key(self) -> bytes:
        """The primary key of its session."""
        return hashlib.sha256(self.family).digest()

    @property
    def hash(self) -> bytes:
        """The hash of its secret."""
        return hashlib.sha256(self.secret).digest()


class Session(Table, table=True):
    """A login that its refresh token prolongs. The row is removed when the session ends.

    Rows are written under the lock of their user's row.
    """

    __tablename__ = "sessions"

    family: bytes = Field(primary_key=True)
    user_id: UUID
    token: bytes
    previous: bytes | None = None
    """The token that was replaced last."""
    rotated_at: datetime
    expires_at: datetime

    @classmethod
    def start(cls, user_id: UUID, token: RefreshToken, now: datetime) -> Self:
        """A new session."""
        return cls(
            family=token.key,
            user_id=user_id,
            token=token.hash,
            rotated_at=now,
            expires_at=now + SESSION_LIFETIME,
        )

    def accepts(self, token: RefreshToken, now: datetime) -> bool:
        """Whether a token is the current one, or the one before and its answer may have been lost."""
        if now >= self.expires_at:
            return False
        recent = now - self.rotated_at <= timedelta(seconds=REPEAT_SECONDS)
        return token.hash == self.token or (recent and token.hash == self.previous)

    def rotate(self, presented: RefreshToken, successor: RefreshToken, now: datetime) -> None:
        """Replace an accepted token. A repetition replaces the successor that was lost, and gets no more time."""
        if presented.hash == self.token:
            self.previous, self.rotated_at = self.token, now
        self.token = successor.hash
