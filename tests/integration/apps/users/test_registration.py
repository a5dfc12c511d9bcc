"""Registration, on a real database and a real broker."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from apps.users import use_cases
from apps.users.models import EmailTaken, User
from events.users import UserRegistered, UserState
from tests.support.harness import RunningService
from tests.support.registering import (
    PASSWORD,
    a_command,
    a_registration,
    a_user_of,
    an_address,
    id_of,
    problem,
    together,
)


async def test_a_registration_makes_a_user_and_is_published(users: RunningService) -> None:
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
    [event] = await users.publishes(1)
    assert isinstance(event, UserRegistered)
    assert event.user == UserState(
        id=user_id,
        email="ada.l+1@example.org",
        name="Ada Lovelace",
        locale="ru",
        version=1,
    )
    [message] = users.tap.messages
    assert message.correlation_id == "story-1"
    assert message.headers["cloudEvents_subject"] == str(user_id)


async def test_a_password_is_stored_as_argon2id_only(users: RunningService) -> None:
    async with a_user_of(users) as ada:
        [row] = await users.rows("SELECT * FROM users WHERE id = $1", UUID(id_of(ada)))
    assert row["password_hash"].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in str(dict(row))


async def test_an_address_is_the_same_in_upper_and_lower_case(users: RunningService) -> None:
    email = an_address()
    async with users.http() as http:
        await http.post("/user/register", json=a_registration(email=email))
        again = await http.post("/user/register", json=a_registration(email=email.upper()))
    assert problem(again) == (409, "email_taken")
    await users.publishes(1)


async def test_concurrent_registrations_of_one_address_make_one_user(users: RunningService) -> None:
    email = an_address()
    async with users.http() as http:
        answers = await asyncio.gather(
            *(http.post("/user/register", json=a_registration(email=email)) for _ in range(20))
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    await users.publishes(1)


async def test_in_one_batch_the_first_registration_gets_the_address(
    users: RunningService,
) -> None:
    taken, wanted, other = an_address(), an_address(), an_address()
    await together(users, use_cases.register_users, [a_command(taken)])
    commands = [a_command(email) for email in (taken, wanted, other, wanted)]
    results = await together(users, use_cases.register_users, commands)
    assert [type(result) for result in results] == [EmailTaken, User, User, EmailTaken]
    assert await users.value("SELECT id FROM users WHERE email = $1", wanted) == results[1].id
    assert [event.user.email for event in users.published_of(UserRegistered)] == [
        taken,
        wanted,
        other,
    ]


async def test_registrations_of_the_same_addresses_in_opposite_orders_do_not_deadlock(
    users: RunningService,
) -> None:
    async def register(emails: list[str]) -> int:
        commands = [a_command(email) for email in emails]
        results = await together(users, use_cases.register_users, commands)
        return sum(isinstance(result, User) for result in results)

    for _ in range(10):
        emails = [an_address() for _ in range(50)]
        ways = [emails, emails[::-1], emails[25:] + emails[:25]]
        assert sum(await asyncio.gather(*map(register, ways))) == 50


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
async def test_an_invalid_registration_stores_nothing(
    users: RunningService, wrong: dict[str, Any]
) -> None:
    count = "SELECT count(*) FROM users"
    before = await users.value(count)
    async with users.http() as http:
        answer = await http.post("/user/register", json=a_registration(**wrong))
    assert problem(answer) == (422, "invalid_request")
    assert next(iter(wrong)) in answer.json()["detail"]
    assert await users.value(count) == before
    await users.publishes(0)
