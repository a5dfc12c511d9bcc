"""Idempotency-Key: the same key and body have one effect and the same answer, by a row of the business transaction."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias
from uuid import UUID

import asyncpg
from fastapi import Depends, Request, Response

from bench.baselines.common import service_of
from chassis.web.auth import CurrentUser
from chassis.web.commands import REPLAYED, IdempotencyKey, StoredResponse
from chassis.web.problems import KeyReused

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

CLAIM: Final = """
INSERT INTO idempotency_keys (user_id, key, fingerprint, location, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING true
"""
STORED: Final = """
SELECT fingerprint, status, body, location FROM idempotency_keys WHERE user_id = $1 AND key = $2
"""
STORE: Final = """
UPDATE idempotency_keys SET status = $3, body = $4, location = $5 WHERE user_id = $1 AND key = $2
"""


@dataclass(frozen=True, slots=True)
class Key:
    """Who asked, with which key, for what."""

    user_id: UUID
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of a key that was used before. Without a status its request has not been answered yet."""

    status: int | None
    body: str | None
    location: str | None

    def answer(self) -> StoredResponse | None:
        """The answer that was given, to be given again."""
        if self.status is None or self.body is None:
            return None
        media_type = "application/json" if self.status < 400 else "application/problem+json"
        headers = REPLAYED | ({"Location": self.location} if self.location else {})
        return StoredResponse(self.status, self.body, media_type, headers)


async def _key(request: Request, user: CurrentUser, key: IdempotencyKey = None) -> Key | None:
    if key is None:
        return None
    body = await request.body()
    canonical = json.dumps(await request.json(), sort_keys=True) if body else ""
    asked = f"{request.method} {request.scope['path']} {canonical}"
    return Key(user.id, key, hashlib.sha256(asked.encode()).hexdigest())


Once = Annotated[Key | None, Depends(_key)]
"""The key of a request, if it has one."""


async def claim(connection: Connection, key: Key, location: str | None = None) -> Stored | None:
    """Take a key; or, if it was taken before, what is known of it. Raises KeyReused for another request."""
    now = datetime.now(UTC)
    if await connection.fetchval(CLAIM, key.user_id, key.key, key.fingerprint, location, now):
        return None
    fingerprint, *known = await connection.fetchrow(STORED, key.user_id, key.key)
    if fingerprint != key.fingerprint:
        raise KeyReused("Send another key with another request.")
    return Stored(*known)


async def store(connection: Connection, key: Key, answer: StoredResponse) -> None:
    """Keep the answer to a key that was taken."""
    location = answer.headers.get("Location")
    await connection.execute(STORE, key.user_id, key.key, answer.status, answer.body, location)


async def answered(
    request: Request, key: Key | None, work: Callable[[Connection], Awaitable[StoredResponse]]
) -> Response:
    """Work that is one transaction, done once for each key."""
    pool = service_of(request).database.pool
    async with pool.acquire() as connection, connection.transaction():
        if key is not None and (stored := await claim(connection, key)):
            again = stored.answer()
            if again is None:
                raise KeyReused("Send another key with another request.")
            return again.response()
        answer = await work(connection)
        if key is not None:
            await store(connection, key, answer)
    return answer.response()
