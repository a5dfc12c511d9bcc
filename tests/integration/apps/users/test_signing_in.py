"""Signing in: passwords, tokens and the keys that sign them, on a real database and a real broker."""

import asyncio
import statistics
import time
from uuid import UUID

import jwt
import pytest
from uuid_utils.compat import uuid7

from apps.users.keys import AT_ONCE, PUBLISH_AFTER, KeyRotation
from apps.users.limits import AttemptLimit
from apps.users.operator import create_operator
from apps.users.passwords import Passwords, Turns
from apps.users.schemas import RegisterBody
from chassis.runtime.settings import settings
from chassis.web.auth import ALGORITHM, AUDIENCE, ISSUER, Verifier
from events.users import PublicKey, SigningKeyPublished, UserRegistered
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.registering import (
    PASSWORD,
    a_registration,
    a_token,
    a_user_of,
    an_address,
    id_of,
    problem,
)


async def test_a_token_is_valid_for_its_user_for_an_hour(users: RunningService) -> None:
    registration = a_registration()
    async with users.http() as http:
        registered = await http.post("/user/register", json=registration)
        login = {"email": registration["email"].upper(), "password": PASSWORD}
        answer = await http.post("/user/login", json=login)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert (body["tokenType"], body["expiresIn"]) == ("Bearer", 3600)
    assert body["userId"] == registered.json()["userId"]
    kid = jwt.get_unverified_header(body["accessToken"])["kid"]
    x = await users.value("SELECT x FROM signing_keys WHERE key_id = $1", kid)
    key = jwt.PyJWK(PublicKey(x=x).model_dump(), algorithm=ALGORITHM)
    claims = jwt.decode(body["accessToken"], key, [ALGORITHM], audience=AUDIENCE, issuer=ISSUER)
    assert claims["sub"] == registered.json()["userId"]
    assert claims["role"] == "user"
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 60


async def test_the_key_set_verifies_tokens(users: RunningService) -> None:
    async with a_user_of(users) as ada:
        token = ada.headers["Authorization"].removeprefix("Bearer ")
    async with users.http() as nobody:
        answer = await nobody.get("/.well-known/jwks.json")
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    key = jwt.PyJWKSet.from_dict(answer.json())[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, [ALGORITHM], audience=AUDIENCE, issuer=ISSUER)
    assert claims["sub"] == id_of(ada)
    assert all(
        set(one) == {"kty", "crv", "alg", "use", "kid", "x"} for one in answer.json()["keys"]
    )


async def test_users_view_themselves_without_their_id(users: RunningService) -> None:
    async with users.http() as http:
        id = (await http.post("/user/register", json=a_registration())).json()["userId"]
        anonymous = await http.get("/user/me")
    async with users.http(UUID(id)) as ada:
        me = await ada.get("/user/me")
        by_id = await ada.get(f"/user/view/{id}")
    assert (me.status_code, me.json()) == (200, by_id.json())
    assert me.json()["userId"] == id
    assert anonymous.status_code == 401


async def test_sign_in_does_not_disclose_whether_the_address_is_known(
    users: RunningService,
) -> None:
    registration = a_registration()
    took: dict[str, list[float]] = {registration["email"]: [], an_address(): []}
    answers = []
    async with users.http() as http:
        await http.post("/user/register", json=registration)
        for _ in range(15):
            for email, seconds in took.items():
                body = {"email": email, "password": "wrong horse"}
                started = time.perf_counter()
                answer = await http.post("/user/login", json=body)
                seconds.append(time.perf_counter() - started)
                assert problem(answer) == (401, "invalid_credentials")
                answer.headers.pop("X-Correlation-Id")
                answers.append((answer.text, sorted(answer.headers.items())))
    assert all(answer == answers[0] for answer in answers)
    known, unknown = (statistics.median(seconds) for seconds in took.values())
    assert 0.5 < known / unknown < 2, f"{known * 1000:.1f} ms against {unknown * 1000:.1f} ms"


async def test_many_attempts_on_one_address_are_refused_and_others_are_not(
    users: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = settings().model_copy(update={"failures_per_client_and_account": 3})
    monkeypatch.setattr(users.provided(AttemptLimit), "settings", limited)
    ada, grace = a_registration(), a_registration()
    async with users.http() as http:
        for registration in (ada, grace):
            assert (await http.post("/user/register", json=registration)).status_code == 201
        guess = {"email": ada["email"].upper(), "password": "wrong horse"}
        answers = [await http.post("/user/login", json=guess) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert problem(answers[-1]) == (429, "too_many_attempts")
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 1200
        assert answers[-1].headers["RateLimit-Policy"] == '"attempts";q=3;w=3600'
        assert answers[-1].headers["RateLimit"].startswith('"attempts";r=0;t=')
        right = {"email": ada["email"], "password": PASSWORD}
        assert (await http.post("/user/login", json=right)).status_code == 429
        other = {"email": grace["email"], "password": PASSWORD}
        assert (await http.post("/user/login", json=other)).status_code == 200
        again = [await http.post("/user/register", json=ada) for _ in range(4)]
        assert [answer.status_code for answer in again] == [409, 409, 409, 429]


async def test_too_many_concurrent_passwords_are_refused_early(
    users: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users.provided(Passwords), "_turns", Turns(2, 2))
    registration = a_registration()
    async with users.http() as http:
        await http.post("/user/register", json=registration)
        login = {"email": registration["email"], "password": PASSWORD}
        requests = [http.post("/user/login", json=login) for _ in range(6)]
        requests += [http.post("/user/register", json=a_registration()) for _ in range(6)]
        answers = await asyncio.gather(*requests)
        refused = [answer for answer in answers if answer.status_code == 503]
        assert 0 < len(refused) < len(answers)
        assert all(problem(answer) == (503, "unavailable") for answer in refused)
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)
        assert (await http.post("/user/login", json=login)).status_code == 200


async def test_concurrent_tokens_after_a_start_are_all_accepted(
    users: RunningService,
) -> None:
    verifier = Verifier(users.service.database.pool)
    ids = [uuid7() for _ in range(10)]
    found = await asyncio.gather(*(verifier.user(users.signer.token(id)) for id in ids))
    assert [user.id for user in found] == ids


async def test_a_user_with_the_operators_address_does_not_become_operator(
    users: RunningService,
) -> None:
    registration = a_registration()
    async with users.http() as http:
        await http.post("/user/register", json=registration)
    for command in (a_registration(email=registration["email"]), a_registration()):
        await create_operator(
            users.service, users.provided(Passwords), RegisterBody.model_validate(command)
        )
        await create_operator(
            users.service, users.provided(Passwords), RegisterBody.model_validate(command)
        )
    _, event = await users.publishes(2)
    assert isinstance(event, UserRegistered)
    emails = "SELECT role FROM users WHERE email = $1"
    assert await users.value(emails, registration["email"]) == "user"
    assert await users.value(emails, event.user.email) == "operator"


async def test_an_expiring_key_gets_a_successor_that_signs_later(
    users: RunningService,
) -> None:
    async with a_user_of(users) as ada:
        email = (await ada.get(f"/user/view/{id_of(ada)}")).json()["email"]

        async def signs() -> str:
            kid: str = jwt.get_unverified_header(await a_token(ada, email))["kid"]
            return kid

        old = await signs()
        await users.rows("UPDATE key_pairs SET valid_until = now() + interval '6 days'")
        await keep_keys(users)
        _, announced = await users.publishes(2)
        assert isinstance(announced, SigningKeyPublished)
        assert announced.key_id != old
        assert await signs() == old
        await keep_keys(users)
        await users.publishes(2)

        ending = (
            "UPDATE key_pairs SET valid_until = now() + interval '59 minutes' WHERE key_id = $1"
        )
        await users.rows(ending, old)
        await keep_keys(users)
        assert await signs() == announced.key_id
        assert (await ada.get(f"/user/view/{id_of(ada)}")).status_code == 200

        await users.rows(
            "UPDATE key_pairs SET valid_until = now() - interval '1 second' WHERE key_id = $1", old
        )
        await keep_keys(users)
        assert await users.value("SELECT count(*) FROM key_pairs WHERE key_id = $1", old) == 0
    x = await users.value("SELECT x FROM signing_keys WHERE key_id = $1", announced.key_id)
    assert x == announced.jwk.x


async def test_a_withdrawn_key_ends_its_tokens_and_no_session(users: RunningService) -> None:
    """Without a restart: the pair is removed, and the copies, as `chorus rebuild` does."""
    async with a_user_of(users) as ada:
        me = await ada.get("/user/me")
        login = {"email": me.json()["email"], "password": PASSWORD}
        session = {
            "refreshToken": (await ada.post("/user/login", json=login)).json()["refreshToken"]
        }
        kid = jwt.get_unverified_header(await a_token(ada, login["email"]))["kid"]
        for table in ("key_pairs", "signing_keys"):
            await users.rows(f"DELETE FROM {table} WHERE key_id = $1", kid)

        async def is_withdrawn() -> None:
            assert (await ada.get("/user/me")).status_code == 401
            newest = jwt.get_unverified_header(await a_token(ada, login["email"]))["kid"]
            assert newest != kid

        await eventually(is_withdrawn)
        answer = await ada.post("/user/token/refresh", json=session)
        token = answer.json()["accessToken"]
        headers = {"Authorization": f"Bearer {token}"}

        async def is_accepted() -> None:  # keys are read twice a second at most
            answer = await ada.get("/user/me", headers=headers)
            assert answer.json().get("userId") == id_of(ada)

        await eventually(is_accepted)


async def keep_keys(users: RunningService) -> None:
    """One run of the hourly background task."""
    await users.provided(KeyRotation)._rotate(PUBLISH_AFTER)


async def test_a_key_is_published_once_a_day_and_at_every_start(users: RunningService) -> None:
    await keep_keys(users)
    await users.publishes(0)
    await users.rows("UPDATE key_pairs SET published_at = now() - interval '25 hours'")
    await asyncio.gather(*(keep_keys(users) for _ in range(3)))
    keys = await users.value("SELECT count(*) FROM key_pairs")
    assert len(set(await users.publishes(keys))) == keys
    await users.provided(KeyRotation)._rotate(AT_ONCE)
    assert all(isinstance(event, SigningKeyPublished) for event in await users.publishes(2 * keys))
