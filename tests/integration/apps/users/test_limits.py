"""Limits on attempts, by client address and account, in the service's database."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from apps.users.limits import AttemptLimit, network_of
from chassis.runtime.settings import Settings, settings
from tests.support.harness import RunningService
from tests.support.registering import PASSWORD, a_registration, an_address, problem

Limit = Callable[..., Settings]


@pytest.fixture
def limit(users: RunningService, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Sets limits for the rest of a test."""

    def change(**limits: int) -> Settings:
        changed = settings().model_copy(update=limits)
        monkeypatch.setattr(users.provided(AttemptLimit), "settings", changed)
        return changed

    return change


def client(users: RunningService, address: str, **options: Any) -> httpx.AsyncClient:
    """A client with an address of its own."""
    transport = httpx.ASGITransport(users.app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://users.test", **options)


async def login(http: httpx.AsyncClient, email: str, password: str = PASSWORD) -> int:
    answer = await http.post("/user/login", json={"email": email, "password": password})
    return answer.status_code


async def register(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/user/register", json=a_registration(**fields))


class TestAttempts:
    async def test_a_client_that_tries_many_accounts_is_refused_in_all_replicas(
        self, users: RunningService, limit: Limit
    ) -> None:
        few = limit(failures_per_client=3)
        async with client(users, "192.0.2.1") as one, client(users, "192.0.2.2") as other:
            owner = an_address()
            assert (await register(one, email=owner)).status_code == 201
            tried = [await login(one, an_address()) for _ in range(5)]
            assert tried == [401, 401, 401, 429, 429]
            replica = AttemptLimit(users.service.database.pool, few)
            users.app.state.provided[AttemptLimit], own = (
                replica,
                users.provided(AttemptLimit),
            )
            assert await login(one, an_address()) == 429
            users.app.state.provided[AttemptLimit] = own
            assert await login(other, an_address()) == 401
            assert await login(one, owner) == 200, "the address is familiar to this account"

    async def test_failures_elsewhere_do_not_lock_the_owner_out(
        self, users: RunningService, limit: Limit
    ) -> None:
        limit(failures_per_client_and_account=2, failures_per_account=3)
        owner = an_address()
        async with client(users, "192.0.2.3") as home:
            await register(home, email=owner)
            for n in range(3):
                async with client(users, f"198.51.100.{n}") as stranger:
                    tried = [await login(stranger, owner, "wrong horse") for _ in range(3)]
                    assert tried[-1] == 429
            async with client(users, "198.51.100.9") as stranger:
                assert await login(stranger, owner, "wrong horse") == 429, "of all clients together"
            assert await login(home, owner) == 200

    async def test_successes_are_not_counted(self, users: RunningService, limit: Limit) -> None:
        limit(failures_per_client_and_account=2, failures_per_client=2, failures_per_account=2)
        async with client(users, "192.0.2.4") as http:
            for _ in range(3):
                assert (await register(http, email=(email := an_address()))).status_code == 201
            assert [await login(http, email) for _ in range(4)] == [200] * 4

    async def test_accounts_can_be_listed_up_to_a_limit(
        self, users: RunningService, limit: Limit
    ) -> None:
        limit(failures_per_client=4)
        taken = [an_address() for _ in range(6)]
        async with client(users, "192.0.2.5") as home, client(users, "192.0.2.6") as http:
            for email in taken:
                await register(home, email=email)
            registered = await register(http)
            answers = [await register(http, email=email) for email in taken[:2]]
            token = users.signer.token(registered.json()["userId"])
            http.headers["Authorization"] = f"Bearer {token}"
            path = f"/user/{registered.json()['userId']}"
            answers += [await http.patch(path, json={"email": email}) for email in taken[2:]]
            answers.append(await register(http))
            assert (await http.patch(path, json={"name": "Ada"})).status_code == 200
        assert [answer.status_code for answer in answers] == [409] * 4 + [429] * 3

    async def test_registrations_of_a_client_are_limited(
        self, users: RunningService, limit: Limit
    ) -> None:
        limit(registrations_per_client=2)
        async with client(users, "2001:db8::1") as one, client(users, "2001:db8::2") as same:
            answers = [await register(http) for http in (one, same, one)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert problem(answers[-1]) == (429, "too_many_attempts")
        assert answers[-1].headers["RateLimit-Policy"] == '"attempts";q=2;w=3600'
        assert int(answers[-1].headers["Retry-After"]) in range(1, 1801)

    async def test_budgets_name_nobody_and_are_purged(self, users: RunningService) -> None:
        async with client(users, "192.0.2.7") as http:
            await login(http, an_address())
            await users.rows("UPDATE budgets SET charged_until = now() - interval '1 second'")
            await login(http, an_address())
        assert await users.value("SELECT count(*) FROM budgets") < 8
        assert await users.value("SELECT bool_and(length(key) = 32) FROM budgets")


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("", ""),
        ("x" * 1000, "x" * 64),
    ],
)
def test_an_ipv6_network_is_one_client(host: str, network: str) -> None:
    assert network_of(host) == network
