"""Users as two replicas, and across a crash."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from events.users import SigningKeyPublished, UserRegistered
from tests.support.broker import Broker, Tap
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.processes import Processes, ServiceProcess

OPERATOR = {
    "CHORUS_OPERATOR_EMAIL": "Boss@Example.org",
    "CHORUS_OPERATOR_PASSWORD": "battery staple",
}


@dataclass(frozen=True)
class Replicas:
    """Two processes of users that were started at once, and the events that both have published."""

    chorus: Installation
    one: ServiceProcess
    two: ServiceProcess
    tap: Tap


@pytest.fixture(scope="module")
async def replicas(install_chorus: Install, module_processes: Processes) -> AsyncIterator[Replicas]:
    chorus = await install_chorus("users_replicas", "users")
    async with listening(chorus) as tap:
        one, two = await module_processes.start(chorus, "users", "users", settings=OPERATOR)
        yield Replicas(chorus, one, two, tap)


@contextlib.asynccontextmanager
async def listening(chorus: Installation) -> AsyncIterator[Tap]:
    broker = Broker(chorus.amqp_admin_url)
    await broker.open()
    async with broker.tap("users") as tap:
        yield tap
    await broker.close()


def a_registration(**fields: Any) -> dict[str, Any]:
    email = f"{secrets.token_hex(8)}@example.org"
    return {"email": email, "password": "correct horse", "name": "Ada"} | fields


async def a_token(http: httpx.AsyncClient, registration: dict[str, Any]) -> str:
    login = {name: registration[name] for name in ("email", "password")}
    answer = await http.post("/user/login", json=login)
    token: str = answer.json()["accessToken"]
    return token


async def rows(chorus: Installation, sql: str, *values: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(chorus.database_admin_url("users"))
    try:
        found: list[asyncpg.Record] = await connection.fetch(sql, *values)
        return found
    finally:
        await connection.close()


async def test_replicas_that_start_at_once_make_one_key_and_one_operator(
    replicas: Replicas,
) -> None:
    [key] = await rows(replicas.chorus, "SELECT key_id FROM key_pairs")
    [known] = await rows(replicas.chorus, "SELECT key_id FROM signing_keys")
    assert known == key
    operators = "SELECT id, email FROM users WHERE role = 'operator'"
    [operator] = await rows(replicas.chorus, operators)
    assert operator["email"] == "boss@example.org"

    async def announced() -> None:
        events = replicas.tap.events
        keys = {event.key_id for event in events if isinstance(event, SigningKeyPublished)}
        assert keys == {key["key_id"]}
        people = [event.user.id for event in events if isinstance(event, UserRegistered)]
        assert people.count(operator["id"]) == 1

    await eventually(announced)


async def test_a_token_of_one_replica_is_valid_at_another(replicas: Replicas) -> None:
    registration = a_registration()
    async with replicas.one.http() as http:
        registered = await http.post("/user/register", json=registration)
        user_token = await a_token(http, registration)
        boss = a_registration(email="boss@example.org", password="battery staple")
        operator_token = await a_token(http, boss)
    for token in (user_token, operator_token):
        async with replicas.two.http(token) as http:
            answer = await http.get(registered.headers["Location"])
        assert answer.status_code == 200
        assert answer.json()["role"] == "user"
    for replica in (replicas.one, replicas.two):
        for secret in ("battery staple", "correct horse", user_token, operator_token):
            assert secret not in replica.log


async def test_replicas_give_an_address_to_one_and_never_fail(replicas: Replicas) -> None:
    async with replicas.one.http() as one, replicas.two.http() as two:
        registrations = [a_registration() for _ in range(10)]
        answers = await asyncio.gather(
            *(one.post("/user/register", json=body) for body in registrations),
            *(two.post("/user/register", json=body) for body in reversed(registrations)),
        )
        assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 10

        wanted = a_registration()

        async def wants(http: httpx.AsyncClient, registration: dict[str, Any]) -> int:
            headers = {"Authorization": f"Bearer {await a_token(http, registration)}"}
            email = registration["email"]
            found = await rows(replicas.chorus, "SELECT id FROM users WHERE email = $1", email)
            change = {"email": wanted["email"]}
            answer = await http.patch(f"/user/{found[0]['id']}", json=change, headers=headers)
            return answer.status_code

        async def registers(http: httpx.AsyncClient) -> int:
            answer = await http.post("/user/register", json=wanted)
            return 200 if answer.status_code == 201 else answer.status_code

        statuses = await asyncio.gather(
            *(wants((one, two)[n % 2], body) for n, body in enumerate(registrations)),
            *map(registers, (one, two)),
        )
    assert sorted(statuses) == [200] + [409] * 11


async def test_an_invalid_operator_stops_the_service_with_the_reason(
    install_chorus: Install, processes: Processes
) -> None:
    chorus = await install_chorus("users_crash", "users")
    settings = OPERATOR | {"CHORUS_OPERATOR_PASSWORD": "pony"}
    process = processes.of("users", chorus, settings=settings)
    process.launch()
    assert await process.ended(within=60) != 0
    assert "CHORUS_OPERATOR_PASSWORD: String should have at least 8 characters" in process.log
    assert "pony" not in process.log


async def test_a_confirmed_registration_is_published_after_a_crash(
    install_chorus: Install, processes: Processes
) -> None:
    chorus = await install_chorus("users_crash", "users")
    process = processes.of("users", chorus, settings=OPERATOR)
    async with listening(chorus) as tap:
        await process.start()
        accepted = await register_until_it_dies(process)
        await process.start()

        async def all_are_published() -> None:
            published = {
                str(event.user.id) for event in tap.events if isinstance(event, UserRegistered)
            }
            stored = {str(row["id"]) for row in await rows(chorus, "SELECT id FROM users")}
            assert published == stored
            assert accepted <= stored

        await eventually(all_are_published)
    assert await rows(chorus, "SELECT * FROM outbox") == []
    assert len(await rows(chorus, "SELECT * FROM key_pairs")) == 1
    assert len(await rows(chorus, "SELECT * FROM users WHERE role = 'operator'")) == 1


async def register_until_it_dies(process: ServiceProcess) -> set[str]:
    """Register users continuously and kill the process meanwhile; the ids of accepted registrations."""
    async with process.http() as http:
        requests = [
            asyncio.create_task(http.post("/user/register", json=a_registration()))
            for _ in range(20)
        ]
        for done in asyncio.as_completed(requests[:5]):
            await done
        process.kill()
        answers = await asyncio.gather(*requests, return_exceptions=True)
    return {
        answer.json()["userId"]
        for answer in answers
        if isinstance(answer, httpx.Response) and answer.status_code == 201
    }
