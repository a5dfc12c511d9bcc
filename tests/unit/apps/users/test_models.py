"""The rules of users: addresses, names, changes, passwords, keys and tokens."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr, TypeAdapter, ValidationError
from uuid_utils.compat import uuid7

from apps.users.models import KEY_LIFETIME, KeyPair, Profile, User
from apps.users.operator import configured_operator
from apps.users.passwords import Passwords
from apps.users.schemas import Email, LoginBody, Name, PatchBody, RegisterBody
from apps.users.tokens import KeyRing
from chassis.runtime.settings import Settings
from chassis.web.auth import ALGORITHM, AUDIENCE, ISSUER, Role
from chassis.web.problems import Unavailable
from events.users import UserState

NOW = datetime(2026, 11, 22, 13, 5, 12, tzinfo=UTC)


def a_registered_user(role: Role = "user") -> User:
    return User.register(uuid7(), Profile("ada@example.org", "Ada", "en"), "", role, NOW)


def a_key_pair(made: datetime = NOW) -> KeyPair:
    return KeyPair.generate(uuid7(), Ed25519PrivateKey.generate(), made)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("ada+shop@example.org", "ada+shop@example.org"),
        ("ada@example.test", "ada@example.test"),
        ("ada@BÜCHER.example.org", "ada@xn--bcher-kva.example.org"),
        ("a" * 64 + "@example.org", "a" * 64 + "@example.org"),
    ],
)
def test_an_email_address_is_normalized(sent: str, stored: str) -> None:
    assert TypeAdapter(Email).validate_python(sent) == stored


@pytest.mark.parametrize(
    "sent",
    [
        *("", "ada", "ada@", "@example.org", "ada@example", "ada@localhost", "ada@@example.org"),
        *("ada@example.org\n", "ada@example.org\r\nBcc: eve@example.org", "ada @example.org"),
        *("Ada <ada@example.org>", '"a b"@example.org', "ada@[127.0.0.1]", "ада@example.org"),
        *("a" * 250 + "@example.org", "a@" + "b." * 124 + "example.org", "ada@example.org\0"),
    ],
)
def test_a_malformed_email_address_is_refused(sent: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Email).validate_python(sent)


@pytest.mark.parametrize("name", ["A", "Ada Lovelace", "Анна", "O'Brien", "李", "🙂", "x" * 200])
def test_a_name_is_kept_unchanged(name: str) -> None:
    assert TypeAdapter(Name).validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "\u3000", "x" * 201, "Ada\n", "\rAda", "Ada\r\nBcc: eve@example.org"),
        *("A\0da", "A\x1bda", "A\x7fda", "A\x85da", "A\u2028da", "A\u2029da", "\tAda"),
    ],
)
def test_a_name_is_one_line_without_control_characters(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


@pytest.mark.parametrize("length", [7, 129])
def test_a_password_has_8_to_128_characters(length: int) -> None:
    fields = {"email": "ada@example.org", "name": "Ada"}
    long = "жёлтый " * 20
    for fine in (8, 128):
        RegisterBody.model_validate(fields | {"password": long[:fine]})
    with pytest.raises(ValidationError):
        RegisterBody.model_validate(fields | {"password": long[:length]})


def test_a_short_password_is_valid_at_sign_in() -> None:
    assert LoginBody.model_validate({"email": "ada@example.org", "password": "short"})


@pytest.mark.parametrize("locale", [None, "de", "", "EN", 1])
def test_a_locale_is_en_or_ru(locale: Any) -> None:
    fields = {"email": "ada@example.org", "name": "Ada", "password": "correct horse"}
    assert RegisterBody.model_validate(fields).locale == "en"
    assert RegisterBody.model_validate(fields | {"locale": "ru"}).locale == "ru"
    with pytest.raises(ValidationError):
        RegisterBody.model_validate(fields | {"locale": locale})


@pytest.mark.parametrize("field", ["role", "userId", "version", "passwordHash", "balance"])
def test_undeclared_fields_are_refused(field: str) -> None:
    fields = {"email": "ada@example.org", "name": "Ada", "password": "correct horse"}
    for body in (RegisterBody, PatchBody, LoginBody):
        own = {name: value for name, value in fields.items() if name in body.model_fields}
        assert body.model_validate(own)
        with pytest.raises(ValidationError, match=field):
            body.model_validate(own | {field: "operator"})


@pytest.mark.parametrize(
    "body", [{}, None, [], {"name": None}, {"email": None}, {"locale": None}, {"password": "x" * 8}]
)
def test_a_change_needs_at_least_one_value(body: Any) -> None:
    with pytest.raises(ValidationError):
        PatchBody.model_validate(body)


def test_a_change_keeps_omitted_fields() -> None:
    body = PatchBody.model_validate({"locale": "ru"})
    user = a_registered_user()
    later = NOW + timedelta(hours=1)
    assert user.change(body.changes(), later)
    assert user.state() == UserState(
        id=user.id, email="ada@example.org", name="Ada", locale="ru", version=2
    )
    assert user.updated_at == later


def test_a_change_without_effect_makes_no_version() -> None:
    user = a_registered_user()
    same = Profile("ada@example.org", "Ada", "en")._asdict()
    assert not user.change(same, NOW + timedelta(hours=1))
    assert user.version == 1
    assert user.updated_at == NOW


def test_a_token_names_user_role_and_expiry() -> None:
    pair, ring = a_key_pair(), KeyRing()
    ring.hold([pair])
    user = a_registered_user(role="operator")
    token = ring.token(user, NOW)
    key = jwt.PyJWK(pair.published().jwk.model_dump(), algorithm=ALGORITHM)
    claims = jwt.decode(
        token,
        key,
        [ALGORITHM],
        {"verify_exp": False, "verify_iat": False},
        audience=AUDIENCE,
        issuer=ISSUER,
    )
    issued = int(NOW.timestamp())
    assert claims == {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user.id),
        "iat": issued,
        "exp": issued + 3600,
        "role": "operator",
    }
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": pair.key_id, "typ": "JWT"}


def test_the_oldest_key_that_outlives_the_token_signs_it() -> None:
    ring = KeyRing()
    old, new = a_key_pair(NOW), a_key_pair(NOW + timedelta(days=23))
    ring.hold([new, old])

    def signed_with(moment: datetime) -> str:
        kid: str = jwt.get_unverified_header(ring.token(a_registered_user(), moment))["kid"]
        return kid

    assert signed_with(NOW + timedelta(days=24)) == old.key_id
    assert signed_with(NOW + KEY_LIFETIME - timedelta(hours=1)) == old.key_id
    assert signed_with(NOW + KEY_LIFETIME - timedelta(minutes=59)) == new.key_id
    with pytest.raises(Unavailable):
        signed_with(NOW + timedelta(days=53))


def test_a_key_is_published_without_its_private_key() -> None:
    pair = a_key_pair()
    public = pair.published().model_dump_json().encode() + repr(pair.known()).encode()
    assert pair.private_key.hex().encode() not in public
    assert pair.known().x == pair.published().jwk.x
    assert pair.known().valid_until == pair.published().valid_until == NOW + KEY_LIFETIME


async def test_a_password_is_hashed_with_argon2id_of_the_recommended_strength() -> None:
    passwords = Passwords()
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.hash("correct horse") != stored
    assert await passwords.matches("correct horse", stored)
    assert not await passwords.matches("Correct horse", stored)
    assert not await passwords.matches("correct horse", None)


async def test_passwords_beyond_the_waiting_limit_are_refused() -> None:
    passwords = Passwords(waiting_limit=3)
    results = await asyncio.gather(
        *(passwords.hash("correct horse") for _ in range(5)), return_exceptions=True
    )
    assert [type(result) for result in results] == [str, str, str, Unavailable, Unavailable]
    assert await passwords.hash("correct horse")


async def test_a_password_that_waits_too_long_is_refused() -> None:
    passwords = Passwords(timeout=0.0)
    with pytest.raises(Unavailable):
        await passwords.hash("correct horse")
    passwords._timeout = 60.0
    assert await passwords.hash("correct horse")


async def test_a_cancelled_password_frees_its_place() -> None:
    passwords = Passwords(waiting_limit=1)
    waiting = asyncio.create_task(passwords.hash("correct horse"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await passwords.hash("correct horse")


def settings(email: str | None, password: str | None) -> Settings:
    secret = None if password is None else SecretStr(password)
    return Settings.model_construct(operator_email=email, operator_password=secret)


def test_the_first_operator_is_read_from_the_settings() -> None:
    assert configured_operator(settings(None, None)) is None
    command = configured_operator(settings("Boss@Example.org", "correct horse"))
    assert command is not None
    assert (command.email, command.password) == ("boss@example.org", "correct horse")


@pytest.mark.parametrize(
    ("email", "password", "message"),
    [
        ("boss@example.org", None, "go together"),
        (None, "correct horse", "go together"),
        ("boss", "correct horse", "CHORUS_OPERATOR_EMAIL: .*valid"),
        ("boss@example.org", "pony", "CHORUS_OPERATOR_PASSWORD: .*8 characters"),
    ],
)
def test_invalid_operator_settings_are_reported_without_the_password(
    email: str | None, password: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        configured_operator(settings(email, password))
    assert password is None or password not in str(error.value)
