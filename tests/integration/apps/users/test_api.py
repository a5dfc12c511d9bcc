"""Profiles, on a real database and a real broker."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from apps.users import use_cases
from apps.users.models import User
from apps.users.use_cases import ChangeUser
from events.base import Causation
from events.users import UserState, UserUpdated
from tests.support.harness import RunningService
from tests.support.registering import (
    a_command,
    a_token,
    a_user_of,
    an_address,
    id_of,
    problem,
    together,
)


async def test_a_user_sees_their_own_profile(users: RunningService) -> None:
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


async def test_a_change_makes_a_new_version_and_is_published(users: RunningService) -> None:
    email = an_address()
    async with a_user_of(users) as ada:
        answer = await ada.patch(
            f"/user/{id_of(ada)}", json={"name": "Ада", "locale": "ru", "email": email.upper()}
        )
        assert answer.status_code == 200
        assert answer.json() == (await ada.get(f"/user/view/{id_of(ada)}")).json()
        assert answer.json()["updatedAt"] > answer.json()["createdAt"]
        assert await a_token(ada, email)
    _, event = await users.publishes(2)
    assert isinstance(event, UserUpdated)
    assert event.user == UserState(
        id=UUID(answer.json()["userId"]),
        email=email,
        name="Ада",
        locale="ru",
        version=2,
    )


async def test_a_change_without_effect_publishes_nothing(users: RunningService) -> None:
    email = an_address()
    async with a_user_of(users, email=email) as ada:
        before = (await ada.get(f"/user/view/{id_of(ada)}")).json()
        same = {"name": "Ada Lovelace", "email": email.upper(), "locale": "en"}
        answer = await ada.patch(f"/user/{id_of(ada)}", json=same)
    assert (answer.status_code, answer.json()) == (200, before)
    await users.publishes(1)


async def test_a_change_to_a_taken_address_is_refused(users: RunningService) -> None:
    email = an_address()
    async with a_user_of(users, email=email), a_user_of(users) as eve:
        answer = await eve.patch(f"/user/{id_of(eve)}", json={"email": email, "name": "Ada"})
        assert problem(answer) == (409, "email_taken")
        assert (await eve.get(f"/user/view/{id_of(eve)}")).json()["version"] == 1
    await users.publishes(2)


async def test_in_one_batch_each_change_is_decided_alone(users: RunningService) -> None:
    taken, free, given_up = an_address(), an_address(), an_address()
    commands = [a_command(email) for email in (taken, given_up, an_address(), an_address())]
    made = await together(users, use_cases.register_users, commands)
    ada, bob, eve, dan = [user.id for user in made]

    def change(user_id: UUID, **changes: str) -> ChangeUser:
        return ChangeUser(user_id, changes, Causation(str(uuid7())))

    changes = [
        change(eve, email=taken),  # ada's
        change(bob, email=free),
        change(dan, email=given_up),  # bob's until now: free for the next transaction
        change(eve, email=free),  # bob's from now on
        change(uuid7(), email=an_address()),
        change(ada, name="Ada the First"),
        change(ada, name="Ada the Second"),
    ]
    results = await together(users, use_cases.change_users, changes)
    reasons = [getattr(result, "reason", None) for result in results]
    assert reasons == ["email_taken", None, "email_taken", "email_taken", "not_found", None, None]
    changed = [(user.name, user.version) for user in results[-2:]]
    assert changed == [("Ada the First", 2), ("Ada the Second", 3)], (
        "each change has its own result"
    )
    versions = await users.rows("SELECT id, version FROM users WHERE id = ANY($1)", [ada, bob, eve])
    assert dict(map(tuple, versions)) == {ada: 3, bob: 2, eve: 1}
    [result] = await together(users, use_cases.change_users, [change(dan, email=given_up)])
    assert isinstance(result, User)


async def test_concurrent_registrations_and_changes_give_an_address_to_one_user(
    users: RunningService,
) -> None:
    commands = [a_command(an_address()) for _ in range(8)]
    ids = [user.id for user in await together(users, use_cases.register_users, commands)]

    async def register(emails: list[str]) -> Sequence[Any]:
        commands = [a_command(email) for email in emails]
        return await together(users, use_cases.register_users, commands)

    async def change(user_id: UUID, email: str) -> Sequence[Any]:
        command = ChangeUser(user_id, {"email": email}, Causation(str(uuid7())))
        return await together(users, use_cases.change_users, [command])

    for _ in range(10):
        emails = [an_address() for _ in ids]
        work = [register(emails), register(emails[::-1]), *map(change, ids, emails)]
        results = [one for many in await asyncio.gather(*work) for one in many]
        assert sum(isinstance(result, User) for result in results) == len(emails)


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
async def test_an_invalid_change_has_no_effect(
    users: RunningService, body: bytes, content_type: str, status: int
) -> None:
    async with a_user_of(users) as ada:
        answer = await ada.patch(
            f"/user/{id_of(ada)}", content=body, headers={"Content-Type": content_type}
        )
        assert problem(answer)[0] == status
        assert (await ada.get(f"/user/view/{id_of(ada)}")).json()["version"] == 1
    await users.publishes(1)
