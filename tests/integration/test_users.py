"""What users promises, on a real database and a real broker."""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest
from limits import RateLimitItemPerMinute
from uuid_utils.compat import uuid7

from apps.common.auth import ALGORITHM, AUDIENCE, ISSUER, Verifier
from apps.users import limits, upkeep, use_cases
from apps.users.models import User
from apps.users.passwords import passwords
from apps.users.problems import EmailTaken
from apps.users.schemas import RegisterBody
from apps.users.upkeep import ANNOUNCE_AFTER, AT_ONCE
from apps.users.use_cases import ChangeUser, RegisterUser
from events.base import Cause
from events.bus.committer import Work
from events.bus.transaction import begin
from events.users import PublicKey, SigningKeyPublished, UserRegistered, UserUpdated
from tests.support.harness import RunningService

PASSWORD = "correct horse"


def an_address() -> str:
    return f"{secrets.token_hex(8)}@example.org"


def a_registration(**fields: Any) -> dict[str, Any]:
    return {"email": an_address(), "password": PASSWORD, "name": "Ada Lovelace"} | fields


def a_wish(email: str) -> RegisterUser:
    return RegisterUser(email, "no hash", "Ada", "en", Cause(str(uuid7())))


async def together(
    users: RunningService, use_case: Work[Any, Any], wishes: Sequence[RegisterUser | ChangeUser]
) -> Sequence[Any]:
    """Have wishes done in one transaction, as when they wait together; what follows from them is said."""
    async with begin(users.service.database.pool) as tx:
        results = await use_case(tx, wishes)
    users.service.relay.wake()
    await users.is_quiet()
    return results


@asynccontextmanager
async def a_user_of(users: RunningService, **fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A registered user's client; `id_of` tells who he is."""
    registration = a_registration(**fields)
    async with users.http() as http:
        answer = await http.post("/user/register", json=registration)
        assert answer.status_code == 201, answer.text
        http.headers["Authorization"] = f"Bearer {await a_token(http, registration['email'])}"
        http.headers["X-Test-User"] = answer.json()["userId"]
        yield http


def id_of(http: httpx.AsyncClient) -> str:
    return http.headers["X-Test-User"]


async def a_token(http: httpx.AsyncClient, email: str, password: str = PASSWORD) -> str:
    answer = await http.post("/user/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["accessToken"]
    return token


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the reason of a refusal."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["status"] == answer.status_code
    return answer.status_code, document["reason"]


# Registration.


async def test_registration_makes_a_user_and_says_so(users: RunningService) -> None:
    registration = a_registration(email="Ada.L+1@Example.ORG", locale="ru")
    async with users.http() as http:
        answer = await http.post(
            "/user/register", json=registration, headers={"X-Correlation-Id": "story-1"}
        )
    assert answer.status_code == 201
    user_id = UUID(answer.json()["userId"])
    assert user_id.version == 7
    assert answer.json() == {"userId": str(user_id)}
    assert answer.headers["Location"] == f"/user/view/{user_id}"
    [said] = await users.says(1)
    assert isinstance(said, UserRegistered)
    assert said.user.model_dump() == {
        "id": user_id,
        "email": "ada.l+1@example.org",
        "name": "Ada Lovelace",
        "locale": "ru",
        "version": 1,
    }
    [message] = users.tap.messages
    assert message.correlation_id == "story-1"
    assert message.headers["cloudEvents_subject"] == str(user_id)


async def test_a_password_is_kept_as_argon2id_and_nothing_else(users: RunningService) -> None:
    async with a_user_of(users) as ada:
        [row] = await users.rows("SELECT * FROM users WHERE id = $1", UUID(id_of(ada)))
    assert row["password_hash"].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in str(dict(row))


async def test_an_address_in_other_letters_is_the_same_one(users: RunningService) -> None:
    email = an_address()
    async with users.http() as http:
        await http.post("/user/register", json=a_registration(email=email))
        again = await http.post("/user/register", json=a_registration(email=email.upper()))
    assert problem(again) == (409, "email_taken")
    await users.says(1)


async def test_of_many_who_want_one_address_at_once_one_gets_it(users: RunningService) -> None:
    email = an_address()
    async with users.http() as http:
        answers = await asyncio.gather(
            *(http.post("/user/register", json=a_registration(email=email)) for _ in range(20))
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    await users.says(1)


async def test_inside_one_batch_the_first_gets_the_address_and_no_neighbour_suffers(
    users: RunningService,
) -> None:
    taken, wanted, other = an_address(), an_address(), an_address()
    await together(users, use_cases.register_users, [a_wish(taken)])
    wishes = [a_wish(email) for email in (taken, wanted, other, wanted)]
    results = await together(users, use_cases.register_users, wishes)
    assert [type(result) for result in results] == [EmailTaken, User, User, EmailTaken]
    assert await users.value("SELECT id FROM users WHERE email = $1", wanted) == results[1].id
    assert [said.user.email for said in users.said_of(UserRegistered)] == [taken, wanted, other]


async def test_transactions_that_want_the_same_addresses_the_other_way_round_never_deadlock(
    users: RunningService,
) -> None:
    async def register(emails: list[str]) -> int:
        wishes = [a_wish(email) for email in emails]
        results = await together(users, use_cases.register_users, wishes)
        return sum(isinstance(result, User) for result in results)

    for _ in range(10):
        emails = [an_address() for _ in range(50)]
        ways = [emails, emails[::-1], emails[25:] + emails[:25]]
        assert sum(await asyncio.gather(*map(register, ways))) == 50


# Sign-in.


async def test_a_token_speaks_for_its_user_for_an_hour(users: RunningService) -> None:
    registration = a_registration()
    async with users.http() as http:
        registered = await http.post("/user/register", json=registration)
        login = {"email": registration["email"].upper(), "password": PASSWORD}
        answer = await http.post("/user/login", json=login)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert (body["tokenType"], body["expiresIn"]) == ("Bearer", 3600)
    kid = jwt.get_unverified_header(body["accessToken"])["kid"]
    x = await users.value("SELECT x FROM signing_keys WHERE key_id = $1", kid)
    key = jwt.PyJWK(PublicKey(x=x).model_dump(), algorithm=ALGORITHM)
    claims = jwt.decode(body["accessToken"], key, [ALGORITHM], audience=AUDIENCE, issuer=ISSUER)
    assert claims["sub"] == registered.json()["userId"]
    assert claims["role"] == "user"
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 60


async def test_sign_in_does_not_tell_whether_the_address_is_known(users: RunningService) -> None:
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


async def test_a_flood_of_attempts_on_one_address_is_held_off_and_nobody_else(
    users: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ATTEMPTS", RateLimitItemPerMinute(3))
    ada, grace = a_registration(), a_registration()
    async with users.http() as http:
        for registration in (ada, grace):
            assert (await http.post("/user/register", json=registration)).status_code == 201
        guess = {"email": ada["email"].upper(), "password": "wrong horse"}
        answers = [await http.post("/user/login", json=guess) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert problem(answers[-1]) == (429, "too_many_attempts")
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        right = {"email": ada["email"], "password": PASSWORD}
        assert (await http.post("/user/login", json=right)).status_code == 429
        other = {"email": grace["email"], "password": PASSWORD}
        assert (await http.post("/user/login", json=other)).status_code == 200
        again = [await http.post("/user/register", json=ada) for _ in range(3)]
        assert [answer.status_code for answer in again] == [409, 409, 429]


async def test_too_many_passwords_at_once_are_refused_early(
    users: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_waiting_limit", 2)
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


async def test_tokens_that_come_at_once_after_a_start_are_all_accepted(
    users: RunningService,
) -> None:
    verifier = Verifier(users.service.database.pool)
    ids = [uuid7() for _ in range(10)]
    found = await asyncio.gather(*(verifier.user(users.signer.token(id)) for id in ids))
    assert [user.id for user in found] == ids


# View and change.


async def test_a_user_sees_himself(users: RunningService) -> None:
    async with a_user_of(users, email="grace@example.org", name="Grace") as grace:
        answer = await grace.get(f"/user/view/{id_of(grace)}")
        assert answer.status_code == 200
        body = answer.json()
        assert body.pop("createdAt") == body.pop("updatedAt")
        assert body == {
            "userId": id_of(grace),
            "email": "grace@example.org",
            "name": "Grace",
            "locale": "en",
            "role": "user",
            "version": 1,
        }


async def test_other_users_look_as_if_they_were_not_there(users: RunningService) -> None:
    async with a_user_of(users) as ada, a_user_of(users) as eve:
        for asked in (id_of(ada), str(uuid7())):
            seen = await eve.get(f"/user/view/{asked}")
            changed = await eve.patch(f"/user/{asked}", json={"name": "Eve"})
            for answer in (seen, changed):
                assert problem(answer) == (404, "not_found")
                assert answer.json()["detail"] == "There is no such user."
        assert (await ada.get(f"/user/view/{id_of(ada)}")).json()["name"] == "Ada Lovelace"


async def test_an_operator_sees_everybody(users: RunningService) -> None:
    async with a_user_of(users) as ada, users.as_operator() as operator:
        assert (await operator.get(f"/user/view/{id_of(ada)}")).status_code == 200
        assert problem(await operator.get(f"/user/view/{uuid7()}")) == (404, "not_found")
        missing = await operator.patch(f"/user/{uuid7()}", json={"name": "Nobody"})
        assert problem(missing) == (404, "not_found")


async def test_a_change_is_a_new_version_and_everybody_is_told(users: RunningService) -> None:
    email = an_address()
    async with a_user_of(users) as ada:
        answer = await ada.patch(
            f"/user/{id_of(ada)}", json={"name": "Ада", "locale": "ru", "email": email.upper()}
        )
        assert answer.status_code == 200
        assert answer.json() == (await ada.get(f"/user/view/{id_of(ada)}")).json()
        assert answer.json()["updatedAt"] > answer.json()["createdAt"]
        assert await a_token(ada, email)
    _, said = await users.says(2)
    assert isinstance(said, UserUpdated)
    assert said.user.model_dump() == {
        "id": UUID(answer.json()["userId"]),
        "email": email,
        "name": "Ада",
        "locale": "ru",
        "version": 2,
    }


async def test_what_changes_nothing_is_no_event(users: RunningService) -> None:
    email = an_address()
    async with a_user_of(users, email=email) as ada:
        before = (await ada.get(f"/user/view/{id_of(ada)}")).json()
        same = {"name": "Ada Lovelace", "email": email.upper(), "locale": "en"}
        answer = await ada.patch(f"/user/{id_of(ada)}", json=same)
    assert (answer.status_code, answer.json()) == (200, before)
    await users.says(1)


async def test_an_address_that_is_taken_cannot_be_changed_to(users: RunningService) -> None:
    email = an_address()
    async with a_user_of(users, email=email), a_user_of(users) as eve:
        answer = await eve.patch(f"/user/{id_of(eve)}", json={"email": email, "name": "Ada"})
        assert problem(answer) == (409, "email_taken")
        assert (await eve.get(f"/user/view/{id_of(eve)}")).json()["version"] == 1
    await users.says(2)


async def test_inside_one_batch_of_changes_each_is_decided_alone(users: RunningService) -> None:
    taken, free, given_up = an_address(), an_address(), an_address()
    wishes = [a_wish(email) for email in (taken, given_up, an_address(), an_address())]
    made = await together(users, use_cases.register_users, wishes)
    ada, bob, eve, dan = [user.id for user in made]

    def change(user_id: UUID, email: str | None = None, name: str | None = None) -> ChangeUser:
        return ChangeUser(user_id, name, email, None, Cause(str(uuid7())))

    changes = [
        change(eve, taken),  # ada's
        change(bob, free),
        change(dan, given_up),  # bob's until now: free for the next transaction
        change(eve, free),  # bob's from now on
        change(uuid7(), an_address()),
        change(ada, name="Ada the First"),
        change(ada, name="Ada the Second"),
    ]
    results = await together(users, use_cases.change_users, changes)
    reasons = [getattr(result, "reason", None) for result in results]
    assert reasons == ["email_taken", None, "email_taken", "email_taken", "not_found", None, None]
    versions = await users.rows("SELECT id, version FROM users WHERE id = ANY($1)", [ada, bob, eve])
    assert dict(map(tuple, versions)) == {ada: 3, bob: 2, eve: 1}
    [result] = await together(users, use_cases.change_users, [change(dan, given_up)])
    assert isinstance(result, User)


async def test_registrations_and_changes_that_race_for_an_address_give_it_to_one(
    users: RunningService,
) -> None:
    wishes = [a_wish(an_address()) for _ in range(8)]
    ids = [user.id for user in await together(users, use_cases.register_users, wishes)]

    async def register(emails: list[str]) -> Sequence[Any]:
        wishes = [a_wish(email) for email in emails]
        return await together(users, use_cases.register_users, wishes)

    async def change(user_id: UUID, email: str) -> Sequence[Any]:
        wish = ChangeUser(user_id, None, email, None, Cause(str(uuid7())))
        return await together(users, use_cases.change_users, [wish])

    for _ in range(10):
        emails = [an_address() for _ in ids]
        work = [register(emails), register(emails[::-1]), *map(change, ids, emails)]
        results = [one for many in await asyncio.gather(*work) for one in many]
        assert sum(isinstance(result, User) for result in results) == len(emails)


# Bad input.


@pytest.mark.parametrize(
    "wrong",
    [
        {"email": "nobody"},
        {"email": None},
        {"email": ["ada@example.org"]},
        {"email": "a" * 250 + "@example.org"},
        {"password": "short"},
        {"password": "x" * 129},
        {"password": 12345678},
        {"name": ""},
        {"name": "Ada\r\nBcc: eve@example.org"},
        {"name": "x" * 201},
        {"locale": "de"},
        {"locale": None},
        {"role": "operator"},
        {"userId": "01a20386-c577-7655-a95c-36d2f161ce01"},
        {"version": 7},
    ],
)
async def test_a_registration_that_is_wrong_leaves_nothing(
    users: RunningService, wrong: dict[str, Any]
) -> None:
    count = "SELECT count(*) FROM users"
    before = await users.value(count)
    async with users.http() as http:
        answer = await http.post("/user/register", json=a_registration(**wrong))
    assert problem(answer) == (422, "invalid_request")
    assert next(iter(wrong)) in answer.json()["detail"]
    assert await users.value(count) == before
    await users.says(0)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"null", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"{}", "application/json", 422),
        (b'{"name": null}', "application/json", 422),
        (b'{"name": NaN}', "application/json", 422),
        (b'{"name": "\\u0000"}', "application/json", 422),
        (b'{"name": "\\ud800"}', "application/json", 422),
        (b'{"name": "\xff"}', "application/json", 422),
        (b'{"password": "correct horse"}', "application/json", 422),
        (b'{"role": "operator"}', "application/json", 422),
        (b'{"name": "Eve"}', "text/plain", 415),
        (b'{"name": "' + b"x" * 1_000_000 + b'"}', "application/json", 413),
    ],
)
async def test_a_change_that_is_wrong_changes_nothing(
    users: RunningService, body: bytes, content_type: str, status: int
) -> None:
    async with a_user_of(users) as ada:
        answer = await ada.patch(
            f"/user/{id_of(ada)}", content=body, headers={"Content-Type": content_type}
        )
        assert problem(answer)[0] == status
        assert (await ada.get(f"/user/view/{id_of(ada)}")).json()["version"] == 1
    await users.says(1)


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_nobody_is_let_in_without_a_token(users: RunningService, method: str) -> None:
    path = f"/user/view/{uuid7()}" if method == "GET" else f"/user/{uuid7()}"
    body = None if method == "GET" else {"name": "Eve"}
    async with users.http() as http:
        assert problem(await http.request(method, path, json=body)) == (401, "unauthorized")


# The first operator.


async def test_a_user_who_took_the_operators_address_gets_no_role_by_it(
    users: RunningService,
) -> None:
    registration = a_registration()
    async with users.http() as http:
        await http.post("/user/register", json=registration)
    for wish in (a_registration(email=registration["email"]), a_registration()):
        await upkeep._make_operator(users.service, RegisterBody.model_validate(wish))
        await upkeep._make_operator(users.service, RegisterBody.model_validate(wish))
    _, said = await users.says(2)
    assert isinstance(said, UserRegistered)
    emails = "SELECT role FROM users WHERE email = $1"
    assert await users.value(emails, registration["email"]) == "user"
    assert await users.value(emails, said.user.email) == "operator"


# Keys.


async def test_a_key_that_ends_gets_a_successor_which_waits_for_its_turn(
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
        _, announced = await users.says(2)
        assert isinstance(announced, SigningKeyPublished)
        assert announced.key_id != old
        assert await signs() == old
        await keep_keys(users)
        await users.says(2)

        ending = (
            "UPDATE key_pairs SET valid_until = now() + interval '59 minutes' WHERE key_id = $1"
        )
        await users.rows(ending, old)
        await keep_keys(users)
        assert await signs() == announced.key_id
        assert (await ada.get(f"/user/view/{id_of(ada)}")).status_code == 200

        await users.rows("UPDATE key_pairs SET valid_until = now() WHERE key_id = $1", old)
        await keep_keys(users)
        assert await users.value("SELECT count(*) FROM key_pairs WHERE key_id = $1", old) == 0
    x = await users.value("SELECT x FROM signing_keys WHERE key_id = $1", announced.key_id)
    assert x == announced.jwk.x


async def keep_keys(users: RunningService) -> None:
    """What the background task does every hour."""
    await upkeep._keep_keys(users.service, ANNOUNCE_AFTER)


async def test_a_key_is_announced_once_a_day_and_at_every_start(users: RunningService) -> None:
    await keep_keys(users)
    await users.says(0)
    await users.rows("UPDATE key_pairs SET announced_at = now() - interval '25 hours'")
    await asyncio.gather(*(keep_keys(users) for _ in range(3)))
    keys = await users.value("SELECT count(*) FROM key_pairs")
    assert len(set(await users.says(keys))) == keys
    await upkeep._keep_keys(users.service, AT_ONCE)
    assert all(isinstance(said, SigningKeyPublished) for said in await users.says(2 * keys))
