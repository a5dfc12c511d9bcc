"""Tokens are verified with keys that arrive as events; other tokens are refused."""

import base64
import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uuid_utils.compat import uuid7

from chassis.web.auth import LEEWAY_SECONDS
from events.users import PublicKey, SigningKeyPublished
from tests.support.builders import a_user, now
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.tokens import Signer


async def asks(billing: RunningService, user_id: UUID, header: str | None) -> httpx.Response:
    async with billing.http() as http:
        headers = {"Authorization": header} if header is not None else {}
        return await http.get(f"/account/{user_id}", headers=headers)


async def test_a_token_of_a_published_key_is_accepted(billing: RunningService) -> None:
    user = a_user()
    answer = await asks(billing, user.id, f"Bearer {billing.signer.token(user.id)}")
    assert answer.status_code == 200


def _unsigned(signer: Signer, user: UUID) -> str:
    claims = jwt.decode(signer.token(user), options={"verify_signature": False})
    return jwt.encode(claims, "", "none", headers={"kid": signer.key_id})


def _hs256_with_the_public_key(signer: Signer, user: UUID) -> str:
    claims = jwt.decode(signer.token(user), options={"verify_signature": False})
    public = signer.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return jwt.encode(claims, public.hex(), "HS256", headers={"kid": signer.key_id})


def _changed(signer: Signer, user: UUID) -> str:
    head, _, signature = signer.token(user).split(".")
    claims = jwt.decode(signer.token(user), options={"verify_signature": False})
    body = json.dumps(claims | {"role": "operator"}).encode()
    return ".".join([head, base64.urlsafe_b64encode(body).rstrip(b"=").decode(), signature])


def _another_key_of_that_name(signer: Signer, user: UUID) -> str:
    return Signer(signer.key_id).token(user)


def _without(claim: str) -> Callable[[Signer, UUID], str]:
    return _with(**{claim: None})


def _with(**claims: Any) -> Callable[[Signer, UUID], str]:
    return lambda signer, user: signer.token(user, **claims)


FORGED: dict[str, Callable[[Signer, UUID], str]] = {
    "nothing": lambda signer, user: "",
    "no token": lambda signer, user: "x",
    "three dots": lambda signer, user: "a.b.c",
    "unsigned": _unsigned,
    "HS256 with the public key": _hs256_with_the_public_key,
    "changed after signing": _changed,
    "another key of that name": _another_key_of_that_name,
    "unknown key": lambda signer, user: Signer("unknown").token(user),
    "expired": _with(exp=int(time.time()) - LEEWAY_SECONDS - 1),
    "from the future": _with(iat=int(time.time()) + 3600),
    "not yet valid": _with(nbf=int(time.time()) + 3600),
    "another audience": _with(aud="others"),
    "another issuer": _with(iss="others"),
    "another role": _with(role="god"),
    "no user": _with(sub="root"),
    "a number as user": _with(sub=1),
    "without exp": _without("exp"),
    "without aud": _without("aud"),
    "without iss": _without("iss"),
    "without iat": _without("iat"),
    "without sub": _without("sub"),
    "endless": lambda signer, user: signer.token(user, more="x" * 5000),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_a_token_is_refused_that_is(
    billing: RunningService, forged: Callable[[Signer, UUID], str]
) -> None:
    user = a_user()
    token = forged(billing.signer, user.id)
    answer = await asks(billing, user.id, f"Bearer {token}")
    assert answer.status_code == 401, answer.text
    challenge = 'Bearer error="invalid_token"' if token else "Bearer"  # RFC 6750, 3.1
    assert answer.headers["WWW-Authenticate"] == challenge
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["reason"] == "unauthorized"
    assert await billing.rows("SELECT 1 FROM accounts WHERE user_id = $1", user.id) == []


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic YTpi", "Token x"])
async def test_a_request_without_a_bearer_token_is_refused(
    billing: RunningService, header: str | None
) -> None:
    answer = await asks(billing, a_user().id, header)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_key_is_valid_once_it_is_published(
    billing: RunningService,
) -> None:
    signer, user = Signer(f"new-{uuid7()}"), a_user()
    header = f"Bearer {signer.token(user.id)}"
    assert (await asks(billing, user.id, header)).status_code == 401
    await billing.processes(signer.published())

    async def believed() -> None:
        assert (await asks(billing, user.id, header)).status_code == 200

    await eventually(believed)


async def test_a_key_is_valid_until_it_expires(billing: RunningService) -> None:
    signer, user = Signer(f"old-{uuid7()}"), a_user()
    await billing.processes(signer.published(valid=timedelta(seconds=-1)))

    async def looked_up() -> None:
        fresh = await asks(billing, user.id, f"Bearer {billing.signer.token(user.id)}")
        assert fresh.status_code == 200

    await eventually(looked_up)
    assert (await asks(billing, user.id, f"Bearer {signer.token(user.id)}")).status_code == 401


async def test_a_published_key_is_never_replaced(billing: RunningService) -> None:
    """A publisher on the users' exchange cannot replace a key that is in use."""
    user = a_user()
    thief = Signer(billing.signer.key_id)
    await billing.processes(thief.published())
    assert isinstance(thief.published(), SigningKeyPublished)
    stolen = await asks(billing, user.id, f"Bearer {thief.token(user.id)}")
    honest = await asks(billing, user.id, f"Bearer {billing.signer.token(user.id, jti='1')}")
    assert (stolen.status_code, honest.status_code) == (401, 200)


async def test_an_accepted_token_is_refused_once_it_has_expired(
    billing: RunningService,
) -> None:
    user = a_user()
    expires = int(time.time()) + 3
    header = f"Bearer {billing.signer.token(user.id, exp=expires - LEEWAY_SECONDS)}"
    assert (await asks(billing, user.id, header)).status_code == 200

    async def refused() -> None:
        assert (await asks(billing, user.id, header)).status_code == 401

    await eventually(refused)
    assert time.time() >= expires


MALFORMED = (
    "",
    "x",
    "=",
    "A" * 42,
    "A" * 44,
    "A" * 4096,
    "\x00",
    "ключ",
    "not base64!",
    "AAAA====",
)


async def test_a_malformed_key_is_dead_lettered_and_one_in_the_table_stops_no_other(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", (0.01,))
    bad = [
        SigningKeyPublished(
            key_id=f"bad-{uuid7()}",
            jwk=PublicKey(x=x),
            valid_until=now() + timedelta(days=1),
        )
        for x in MALFORMED
    ]
    await billing.receives(*bad)
    await billing.dead_letters(len(bad))
    ids = [key.key_id for key in bad]
    assert await billing.rows("SELECT 1 FROM signing_keys WHERE key_id = ANY($1)", ids) == []
    rows = [(key.key_id, key.jwk.x, key.valid_until) for key in bad if "\x00" not in key.jwk.x]
    insert = "INSERT INTO signing_keys (key_id, x, valid_until) VALUES ($1, $2, $3)"
    await billing.database.executemany(insert, rows)
    signer, user = Signer(f"good-{uuid7()}"), a_user()
    await billing.processes(signer.published())

    async def accepted() -> None:
        answer = await asks(billing, user.id, f"Bearer {signer.token(user.id)}")
        assert answer.status_code == 200

    await eventually(accepted)
    await billing.rows("DELETE FROM signing_keys WHERE key_id = ANY($1)", ids)
