"""The keys of tokens. Users makes and keeps a key pair; everybody else fetches the public halves from it over HTTP.

They are stored where Chorus' services store those that they have heard of, so that the very same code checks tokens.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

import stamina
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from uuid_utils.compat import uuid7

from apps.users.limits import AttemptLimit
from apps.users.models import KEY_RENEWAL, KeyPair
from apps.users.passwords import Passwords
from apps.users.tokens import KeyRing
from bench.baselines.common import Service, service_of
from bench.baselines.parts import sql
from bench.baselines.parts.callees import CalleeAwayError, callees
from chassis.database.pool import START_SECONDS
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool
from chassis.messaging.errors import is_transient
from chassis.web.auth import SigningKey
from events.base import Causation
from events.users import SigningKeyPublished

CHECK_SECONDS: Final = 3600.0
"""How often keys are looked after; a new one is made days before it is first used."""

ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('key_pairs'), 0)"

_KEYS: Final = TypeAdapter(list[SigningKeyPublished])

router = APIRouter(prefix="/internal")


@router.get("/keys")
async def list_keys(request: Request) -> Response:
    """The public halves of all valid keys."""
    pairs = await _keep(service_of(request).database.pool)
    keys = [pair.published() for pair in pairs]
    return Response(_KEYS.dump_json(keys, by_alias=True), media_type="application/json")


@contextlib.asynccontextmanager
async def kept(service: Service) -> AsyncIterator[None]:
    """A part of users: there is always a key to sign with."""
    pool = service.database.pool
    ring = KeyRing()
    ring.hold(await _keep(pool))
    service.objects += [ring, Passwords(), AttemptLimit()]

    async def look_after() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                ring.hold(await _keep(pool))
            except Exception as error:
                if not is_transient(error):
                    raise

    service.supervisor.start("keys", look_after())
    yield


async def _keep(pool: Pool) -> list[KeyPair]:
    """The valid pairs, with one among them that lasts."""
    now = datetime.now(UTC)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ONE_AT_A_TIME)
        records = await connection.fetch(statements(KeyPair).where("valid_until > $1"), now)
        pairs = [from_record(KeyPair, record) for record in records]
        if not any(pair.lasts(KEY_RENEWAL, now) for pair in pairs):
            made = KeyPair.generate(uuid7(), Ed25519PrivateKey.generate(), now)
            await connection.execute(sql.insert(KeyPair), *sql.values(made))
            await connection.execute(sql.insert(SigningKey), *sql.values(made.known()))
            pairs.append(made)
    return pairs


@contextlib.asynccontextmanager
async def fetched(service: Service) -> AsyncIterator[None]:
    """A part of everybody else: waits for users to answer, then asks again from time to time."""
    pool = service.database.pool
    async for attempt in stamina.retry_context(
        on=CalleeAwayError, attempts=None, timeout=START_SECONDS, wait_max=1.0
    ):
        with attempt:
            await _fetch(pool)

    async def look_after() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await _fetch(pool)
            except Exception as error:
                if not isinstance(error, CalleeAwayError) and not is_transient(error):
                    raise

    service.supervisor.start("keys", look_after())
    yield


async def _fetch(pool: Pool) -> None:
    for key in _KEYS.validate_json(
        await callees.get("users", "/internal/keys", Causation(str(uuid7())))
    ):
        row = SigningKey(key_id=key.key_id, x=key.jwk.x, valid_until=key.valid_until)
        await pool.execute(sql.insert(SigningKey), *sql.values(row))
