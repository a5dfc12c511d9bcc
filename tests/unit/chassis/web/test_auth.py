"""Verification of access tokens, with a table of keys in memory."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chassis.web import auth
from chassis.web.auth import LEEWAY_SECONDS, User, Verifier, store_signing_keys
from chassis.web.problems import Unauthorized
from events.base import Causation, Envelope
from tests.support.memory import Memory
from tests.support.tokens import Signer

ADA = UUID(int=1)


class Keys:
    """The table `signing_keys`."""

    def __init__(self, *signers: Signer, valid: timedelta = timedelta(days=1)) -> None:
        self.rows = [self.row(signer, valid) for signer in signers]
        self.reads = 0

    @staticmethod
    def row(signer: Signer, valid: timedelta) -> dict[str, Any]:
        return {
            "key_id": signer.key_id,
            "x": signer.x,
            "valid_until": datetime.now(UTC) + valid,
        }

    async def fetch(self, sql: str) -> list[dict[str, Any]]:
        assert sql.endswith("FROM signing_keys WHERE true")
        self.reads += 1
        return self.rows


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def keys(signer: Signer) -> Keys:
    return Keys(signer)


@pytest.fixture
def verifier(keys: Keys) -> Verifier:
    return Verifier(keys)


async def test_a_valid_token_identifies_its_user(signer: Signer, verifier: Verifier) -> None:
    assert await verifier.user(signer.token(ADA)) == User(ADA, "user")
    assert await verifier.user(signer.token(ADA, "operator")) == User(ADA, "operator")


def public_key(signer: Signer) -> bytes:
    return signer.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def unsigned(signer: Signer) -> str:
    """The same claims with alg none."""
    head = {"alg": "none", "typ": "JWT", "kid": signer.key_id}
    claims = signer.token(ADA).split(".")[1]
    return f"{_part(head)}.{claims}."


def signed_with_the_public_key(signer: Signer, alg: str = "HS256") -> str:
    """Accepted by a verifier that trusts `alg`: the public key as a shared secret."""
    head = _part({"alg": alg, "typ": "JWT", "kid": signer.key_id})
    signed = f"{head}.{signer.token(ADA).split('.')[1]}"
    signature = hmac.digest(public_key(signer), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed_with_another_key(signer: Signer) -> str:
    """Signed with another key, under the id of the valid key."""
    return Signer(signer.key_id).token(ADA)


def changed(signer: Signer) -> str:
    head, claims, signature = signer.token(ADA).split(".")
    more = jwt.decode(signer.token(ADA), options={"verify_signature": False})
    other = _part({**more, "role": "operator"})
    assert claims != other
    return f"{head}.{other}.{signature}"


YESTERDAY = int((datetime.now(UTC) - timedelta(days=1)).timestamp())
TOMORROW = int((datetime.now(UTC) + timedelta(days=1)).timestamp())

FORGED = {
    "unsigned": unsigned,
    "HS256 with the public key": signed_with_the_public_key,
    "HS256 that says EdDSA": lambda signer: signed_with_the_public_key(signer, "EdDSA"),
    "another key under this name": signed_with_another_key,
    "claims changed": changed,
    "an unknown key": lambda signer: Signer("tests-2").token(ADA),
    "no key": lambda signer: jwt.encode({"sub": str(ADA)}, signer.private, "EdDSA"),
    "expired": lambda signer: signer.token(ADA, exp=YESTERDAY),
    "never expires": lambda signer: signer.token(ADA, exp=None),
    "expires in words": lambda signer: signer.token(ADA, exp="tomorrow"),
    "from the future": lambda signer: signer.token(ADA, iat=TOMORROW),
    "no time of issue": lambda signer: signer.token(ADA, iat=None),
    "another audience": lambda signer: signer.token(ADA, aud="choir"),
    "no audience": lambda signer: signer.token(ADA, aud=None),
    "another issuer": lambda signer: signer.token(ADA, iss="chorus/orders"),
    "no issuer": lambda signer: signer.token(ADA, iss=None),
    "no subject": lambda signer: signer.token(ADA, sub=None),
    "a subject that is not an id": lambda signer: signer.token(ADA, sub="ada"),
    "an unknown role": lambda signer: signer.token(ADA, role="admin"),
    "a list of roles": lambda signer: signer.token(ADA, role=["operator"]),
    "too long": lambda signer: signer.token(ADA, more="x" * 2048),
    "nothing": lambda signer: "",
    "one part": lambda signer: "abc",
    "two dots": lambda signer: "..",
    "no base64": lambda signer: "ä.ö.ü",
    "a body that is no object": lambda signer: f"{_part({'alg': 'EdDSA'})}.WzFd.x",
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_a_forged_token_is_refused(signer: Signer, verifier: Verifier, forge: Any) -> None:
    with pytest.raises(Unauthorized) as refused:
        await verifier.user(forge(signer))
    assert refused.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}


async def test_tokens_are_cached_and_keys_read_once(
    signer: Signer, keys: Keys, verifier: Verifier
) -> None:
    token = signer.token(ADA)
    for _ in range(3):
        await verifier.user(token)
        await verifier.user(signer.token(UUID(int=2)))
    assert keys.reads == 1


async def test_a_cached_token_is_refused_once_it_expires(
    signer: Signer, verifier: Verifier
) -> None:
    expired = signer.token(ADA, exp=YESTERDAY)
    verifier._cached[expired] = (User(ADA), YESTERDAY)
    with pytest.raises(Unauthorized):
        await verifier.user(expired)


async def test_the_cache_keeps_only_the_newest_tokens(
    signer: Signer, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CACHED_TOKENS", 3)
    tokens = [signer.token(UUID(int=n)) for n in range(6)]
    for token in tokens:
        await verifier.user(token)
    assert list(verifier._cached) == tokens[3:]


@pytest.mark.parametrize("seconds", [-LEEWAY_SECONDS + 5, LEEWAY_SECONDS - 5])
async def test_clocks_may_differ_by_a_minute(
    signer: Signer, verifier: Verifier, seconds: int
) -> None:
    """The issuer's clock is behind: the token has just expired; or ahead: it is not valid yet."""
    moment = int(datetime.now(UTC).timestamp()) + seconds
    claims: Any = {"exp": moment} if seconds < 0 else {"iat": moment, "nbf": moment}
    assert await verifier.user(signer.token(ADA, **claims)) == User(ADA)


async def test_an_expired_key_is_refused(signer: Signer) -> None:
    verifier = Verifier(Keys(signer, valid=timedelta(seconds=-1)))
    with pytest.raises(Unauthorized):
        await verifier.user(signer.token(ADA))


async def test_a_new_key_is_loaded_and_unknown_keys_cause_few_reads(
    signer: Signer, keys: Keys, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = Signer("tests-2")
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await verifier.user(newer.token(ADA))
    assert keys.reads == 1

    keys.rows.append(Keys.row(newer, timedelta(days=1)))
    monkeypatch.setattr(auth, "RELOAD_SECONDS", 0)
    assert await verifier.user(newer.token(ADA)) == User(ADA)
    assert await verifier.user(signer.token(ADA)) == User(ADA)


def test_a_stored_key_is_not_replaced(signer: Signer) -> None:
    memory, imposter = Memory(), Signer(signer.key_id)
    for one in (signer, imposter, Signer("tests-2")):
        received = Envelope(UUID(int=9), one.published(), datetime.now(UTC), Causation("flow"))
        memory.run(store_signing_keys, [received, received])
    assert [(row.key_id, row.x) for row in memory.rows(auth.SigningKey)][:1] == [
        (signer.key_id, signer.x)
    ]
    assert len(memory.rows(auth.SigningKey)) == 2


def test_users_see_their_own_data_and_operators_all() -> None:
    assert User(ADA).may_see(ADA)
    assert not User(ADA).may_see(UUID(int=2))
    assert User(ADA, "operator").may_see(UUID(int=2))
