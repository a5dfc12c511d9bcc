"""Idempotency-Key: the same key and body have one effect and one response, stored in the business transaction."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias
from uuid import UUID

import asyncpg
from fastapi import Depends, Request, Response
from pydantic import BaseModel

from bench.baselines.common import service_of
from chassis.web.auth import CurrentUser
from chassis.web.commands import REPLAYED, IdempotencyKey
from chassis.web.problems import MEDIA_TYPE, KeyReused, Problem

Connection: TypeAlias = asyncpg.Connection

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
class StoredResponse:
    """A response in the form in which it is stored and sent."""

    status: int
    body: str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The HTTP response."""
        headers = dict(self.headers)
        return Response(self.body, self.status, headers=headers, media_type=self.media_type)


def rendering(
    view: Callable[[Any], BaseModel], status: int, location: Callable[[Any], str] | None
) -> Callable[[str, Any], StoredResponse]:
    """The function that makes a response from a result: a value through its view, a refusal as a problem."""

    def render(path: str, result: Any) -> StoredResponse:
        if isinstance(result, Problem):
            document = json.dumps(result.document(path))
            return StoredResponse(result.status, document, MEDIA_TYPE, result.headers)
        headers = {"Location": location(result)} if location else {}
        body = view(result).model_dump_json(by_alias=True)
        return StoredResponse(status, body, headers=headers)

    return render


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a request, its user, and the hash of what was requested."""

    user_id: UUID
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The row of a key that was used before. Without a status its request has no response yet."""

    status: int | None
    body: str | None
    location: str | None

    def answer(self) -> StoredResponse | None:
        """The stored response, or None if there is none yet."""
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
    text = f"{request.method} {request.scope['path']} {canonical}"
    return Key(user.id, key, hashlib.sha256(text.encode()).hexdigest())


OptionalKey = Annotated[Key | None, Depends(_key)]
"""The key of a request, if it has one."""


async def claim(connection: Connection, key: Key, location: str | None = None) -> StoredKey | None:
    """Insert a key; if it exists, return its row. Raises KeyReused if it belongs to another request."""
    now = datetime.now(UTC)
    if await connection.fetchval(CLAIM, key.user_id, key.key, key.fingerprint, location, now):
        return None
    fingerprint, *known = await connection.fetchrow(STORED, key.user_id, key.key)
    if fingerprint != key.fingerprint:
        raise KeyReused("Send another key with another request.")
    return StoredKey(*known)


async def store(connection: Connection, key: Key, answer: StoredResponse) -> None:
    """Store the response for a key."""
    location = answer.headers.get("Location")
    await connection.execute(STORE, key.user_id, key.key, answer.status, answer.body, location)


async def respond_once(
    request: Request, key: Key | None, work: Callable[[Connection], Awaitable[StoredResponse]]
) -> Response:
    """Do `work` in one transaction, once for each key."""
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
