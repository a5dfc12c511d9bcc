"""The signing keys of tokens. Users generates key pairs; the other services fetch the public keys from it over HTTP.

They are stored in the same table as in Chorus, so that the same code verifies tokens.
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

from apps.users.models import KEY_RENEWAL, KeyPair
from apps.users.passwords import Passwords
from apps.users.tokens import KeyRing
from bench.baselines.common import Service, service_of
from bench.baselines.parts import sql
from bench.baselines.parts.services import ServiceUnavailableError, services
from chassis.database.errors import is_transient
from chassis.database.pool import START_SECONDS
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool
from chassis.web.auth import SigningKey
from events.base import Causation
from events.users import SigningKeyPublished

CHECK_SECONDS: Final = 3600.0
"""How often the keys are checked. A new key is generated days before its first use."""

ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('key_pairs'), 0)"

_KEYS: Final = TypeAdapter(list[SigningKeyPublished])

router = APIRouter(prefix="/internal")


@router.get("/keys")
async def list_keys(request: Request) -> Response:
    """The public keys that are valid."""
    pairs = await _valid_pairs(service_of(request).database.pool)
    keys = [pair.published() for pair in pairs]
    return Response(_KEYS.dump_json(keys, by_alias=True), media_type="application/json")


@contextlib.asynccontextmanager
async def rotating(service: Service) -> AsyncIterator[None]:
    """A part of users: it generates a new key pair before the current one expires."""
    pool = service.database.pool
    ring = KeyRing()
    ring.hold(await _valid_pairs(pool))
    service.objects += [ring, Passwords()]

    async def check_again() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                ring.hold(await _valid_pairs(pool))
            except Exception as error:
                if not is_transient(error):
                    raise

    service.supervisor.start("keys", check_again())
    yield


async def _valid_pairs(pool: Pool) -> list[KeyPair]:
    """The valid key pairs. Generates one if all of them expire soon."""
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
async def refreshing(service: Service) -> AsyncIterator[None]:
    """A part of the other services: it waits for users to respond, then fetches the keys again every hour."""
    pool = service.database.pool
    async for attempt in stamina.retry_context(
        on=ServiceUnavailableError, attempts=None, timeout=START_SECONDS, wait_max=1.0
    ):
        with attempt:
            await _fetch(pool)

    async def check_again() -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await _fetch(pool)
            except Exception as error:
                if not isinstance(error, ServiceUnavailableError) and not is_transient(error):
                    raise

    service.supervisor.start("keys", check_again())
    yield


async def _fetch(pool: Pool) -> None:
    for key in _KEYS.validate_json(
        await services.get("users", "/internal/keys", Causation(str(uuid7())))
    ):
        row = SigningKey(key_id=key.key_id, x=key.jwk.x, valid_until=key.valid_until)
        await pool.execute(sql.insert(SigningKey), *sql.values(row))
