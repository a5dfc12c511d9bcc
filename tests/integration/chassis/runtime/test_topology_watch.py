"""A service compares the broker's topology with its own, every minute; it works on, whatever it finds."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY
from structlog.testing import CapturingLogger

from apps import SERVICES
from chassis.messaging.topology import topology
from chassis.runtime import service as runtime
from chassis.runtime import topology_watch
from chassis.runtime.service import create_app
from ops.management import Administration
from ops.subscriptions import SUBSCRIPTIONS
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.installation import Installation
from tests.support.proxy import Proxy
from tests.support.topology_changes import POLICIES, Broker, kinds, policy, with_changes

OWN: Final = {service: topology({service: SUBSCRIPTIONS[service]}) for service in SERVICES}
"""What each service watches."""

KINDS: Final = {service: kinds(OWN[service]) for service in SERVICES}

BREAKS_CONSUMERS: Final = ("deleted queue", "other arguments")
"""Kinds of differences that leave the service without a consumer, for a while."""


def made(service: str, installation: Installation) -> RunningService:
    """A service without its background tasks and its work at start."""
    parts = [importlib.import_module(f"apps.{service}.{name}") for name in ("api", "consumers")]
    app = create_app(
        service, description="", router=parts[0].router, subscriptions=parts[1].SUBSCRIPTIONS
    )
    return RunningService(service, app, installation)


@pytest.fixture(scope="module", params=SERVICES)
async def watching(
    request: pytest.FixtureRequest, install_chorus: Install
) -> AsyncIterator[RunningService]:
    """A service that compares all the time."""
    service = made(request.param, await install_chorus(f"watched_{request.param}", request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology_watch, "WATCH_SECONDS", 0.1)
        async with service.running():
            yield service


def figure(name: str, service: str) -> float | None:
    return REGISTRY.get_sample_value(f"chorus_topology_{name}", {"service": service})


async def ready(service: RunningService) -> tuple[int, str]:
    async with service.http() as anonymous:
        answer = await anonymous.get("/ready")
    return answer.status_code, answer.json()["detail"]


async def is_as_declared(service: RunningService) -> None:
    async def as_declared() -> None:
        assert await ready(service) == (200, "")
        assert (figure("differences", service.name), figure("unknown", service.name)) == (0, 0)

    await eventually(as_declared)


@pytest.mark.parametrize("kind", KINDS["billing"])
async def test_every_difference_is_counted_and_named_until_it_is_mended(
    watching: RunningService, kind: str
) -> None:
    await is_as_declared(watching)
    own, changes = OWN[watching.name], KINDS[watching.name][kind]
    async with with_changes(watching.installation, own, *changes) as (_, named):

        async def all_named() -> None:
            status, detail = await ready(watching)
            assert [name for name in named if name not in detail] == []
            assert status == 200 or kind in BREAKS_CONSUMERS
            assert (figure("differences", watching.name) or 0) >= len(named)

        await eventually(all_named)
    await is_as_declared(watching)


async def test_what_other_services_bind_is_no_difference(watching: RunningService) -> None:
    """Each installation has the queues of all services, and the journal is bound to every exchange."""
    await is_as_declared(watching)
    with Administration(watching.installation.servers.rabbitmq_api_url) as api:
        bindings = await asyncio.to_thread(api.get, f"bindings/{watching.installation.name}")
    sources = {one["source"] for one in bindings.json() if one["destination"] == "journal"}
    assert sources == {*SERVICES, ""}, "that of the default exchange included"


Interrupt = Callable[[Proxy, Broker], Awaitable[None]]


async def refused(proxy: Proxy, broker: Broker) -> None:
    await proxy.refuse()


async def silent(proxy: Proxy, broker: Broker) -> None:
    proxy.freeze()


async def another_program(proxy: Proxy, broker: Broker) -> None:
    postgres = urlsplit(broker.chorus.servers.database_admin_url)
    assert postgres.port is not None
    proxy.point_at(postgres.port)
    proxy.cut()


async def forbidden(proxy: Proxy, broker: Broker) -> None:
    login, password = broker.chorus.login("orders"), broker.chorus.password
    await asyncio.to_thread(
        broker.send, "PUT", f"users/{login}", {"password": password, "tags": ""}
    )


@pytest.fixture(scope="module")
async def behind(install_chorus: Install) -> AsyncIterator[tuple[RunningService, Proxy, Broker]]:
    """Orders, whose management API is behind a proxy, with one difference to begin with."""
    installation = await install_chorus("topology_unknown", "orders")
    url = installation.servers.rabbitmq_api_url
    bend = policy(OWN["orders"].queues[0], "policies", POLICIES["max-length"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topology_watch, "WATCH_SECONDS", 0.1)
        patch.setattr(topology_watch, "TIMEOUT_SECONDS", 1.0)
        async with (
            with_changes(installation, OWN["orders"], bend) as (broker, _),
            Proxy.before(url) as proxy,
            made("orders", installation).running(
                {"CHORUS_RABBITMQ_API_URL": proxy.url(url)}
            ) as orders,
        ):
            yield orders, proxy, broker


class TestWithoutAnAnswer:
    @pytest.mark.parametrize(
        ("interrupt", "reason"),
        [
            (refused, "ConnectError"),
            (silent, "TimeoutError"),
            (another_program, "RemoteProtocolError"),
            (forbidden, "HTTP 401"),
        ],
    )
    async def test_the_service_is_ready_and_says_that_it_does_not_know(
        self,
        behind: tuple[RunningService, Proxy, Broker],
        interrupt: Interrupt,
        reason: str,
    ) -> None:
        orders, proxy, broker = behind

        async def known() -> None:
            status, detail = await ready(orders)
            assert status == 200
            assert detail.startswith("topology: policy bent-")
            assert (figure("differences", "orders"), figure("unknown", "orders")) == (1, 0)

        async def unknown() -> None:
            assert await ready(orders) == (200, f"topology: unknown ({reason})")
            # What was found last still counts.
            assert (figure("differences", "orders"), figure("unknown", "orders")) == (1, 1)

        await eventually(known)
        await interrupt(proxy, broker)
        await eventually(unknown)
        await self._resume(proxy, broker)
        await eventually(known)

    async def _resume(self, proxy: Proxy, broker: Broker) -> None:
        api_url = broker.chorus.servers.rabbitmq_api_url
        proxy.point_at(urlsplit(api_url).port or 0)
        proxy.lose()
        await proxy.refuse()
        await proxy.accept()
        login, password = broker.chorus.login("orders"), broker.chorus.password
        body = {"password": password, "tags": "management"}
        await asyncio.to_thread(broker.send, "PUT", f"users/{login}", body)


class TestStart:
    async def test_a_difference_is_found_at_the_start(
        self, install_chorus: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(topology_watch, "WATCH_SECONDS", 3600.0)
        installation = await install_chorus("topology_unknown", "orders")
        bend = policy(OWN["orders"].queues[0], "policies", POLICIES["ttl"])
        async with (
            with_changes(installation, OWN["orders"], bend) as (_, [name]),
            made("orders", installation).running() as orders,
        ):

            async def named() -> None:
                status, detail = await ready(orders)
                assert status == 200
                assert name in detail

            await eventually(named)

    async def test_without_the_setting_nothing_is_watched(
        self, install_chorus: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = CapturingLogger()
        monkeypatch.setattr(runtime, "log", log)
        service = made("orders", await install_chorus("topology_unknown", "orders"))
        async with service.running({"CHORUS_RABBITMQ_API_URL": ""}) as orders:
            assert await ready(orders) == (200, "")
        events = [call.args[0] for call in log.calls]
        assert events.count("topology.not_watched") == 1
