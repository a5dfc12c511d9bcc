"""`chorus topology --check` finds every way in which a broker's topology may differ from the declared one."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from apps import SERVICES
from chassis.messaging.topology import Queue
from chassis.runtime.settings import settings
from ops.differences import check
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.support.fixtures import Install
from tests.support.installation import Installation, environment

POLICIES: Final = {
    "ttl": {"message-ttl": 1000},
    "max-length": {"max-length": 1},
    "drop-head": {"overflow": "drop-head"},
}
Change = Callable[["Broker"], str]
"""Makes a difference, and returns how it is named."""


class Broker:
    """The management API of one installation."""

    def __init__(self, chorus: Installation, api: Administration) -> None:
        self.chorus = chorus
        self._api = api

    def send(self, method: str, path: str, body: Any = None) -> None:
        path = path.replace("VHOST", self.chorus.name)
        self._api.request(method, path, json=body).raise_for_status()


def delete_queue(queue: Queue) -> Change:
    def change(broker: Broker) -> str:
        broker.send("DELETE", f"queues/VHOST/{queue.name}")
        return f"queue {queue.name}: missing"

    return change


def other_arguments(queue: Queue) -> Change:
    def change(broker: Broker) -> str:
        broker.send("DELETE", f"queues/VHOST/{queue.name}")
        arguments = {"x-queue-type": queue.arguments["x-queue-type"]}
        broker.send("PUT", f"queues/VHOST/{queue.name}", {"durable": True, "arguments": arguments})
        return f"queue {queue.name}: "

    return change


def delete_binding(queue: Queue) -> Change:
    def change(broker: Broker) -> str:
        exchange, key = queue.bindings[0]
        properties = key.replace("#", "%23")
        broker.send("DELETE", f"bindings/VHOST/e/{exchange}/q/{queue.name}/{properties}")
        return f"binding {exchange} -> {queue.name} ({key}): missing"

    return change


def extra_binding(queue: Queue) -> Change:
    def change(broker: Broker) -> str:
        broker.send("POST", f"bindings/VHOST/e/users/q/{queue.name}", {"routing_key": "other"})
        return f"binding users -> {queue.name} (other): not declared"

    return change


def policy(queue: Queue, path: str, definition: dict[str, Any]) -> Change:
    def change(broker: Broker) -> str:
        name, pattern = f"bent-{queue.name}", f"^{queue.name.replace('.', '[.]')}$"
        body = {"pattern": pattern, "definition": definition, "apply-to": "queues"}
        broker.send("PUT", f"{path}/VHOST/{name}", body)
        return f"policy {name}: applies to {queue.name}: "

    return change


def delete_exchange(exchange: str) -> Change:
    def change(broker: Broker) -> str:
        broker.send("DELETE", f"exchanges/VHOST/{exchange}")
        return f"exchange {exchange}: missing"

    return change


def revoke(service: str) -> Change:
    def change(broker: Broker) -> str:
        login = broker.chorus.login(service)
        rights = TOPOLOGY.permissions(service) | {"read": "^$"}
        broker.send("PUT", f"permissions/VHOST/{login}", rights)
        return f"permissions of {login}: "

    return change


def of_queues(change: Callable[..., Change], *arguments: Any) -> list[Change]:
    return [change(queue, *arguments) for queue in TOPOLOGY.queues]


KINDS: Final[dict[str, list[Change]]] = {
    "deleted queue": of_queues(delete_queue),
    "other arguments": of_queues(other_arguments),
    "deleted binding": of_queues(delete_binding),
    "extra binding": of_queues(extra_binding),
    **{name: of_queues(policy, "policies", bent) for name, bent in POLICIES.items()},
    "operator policy": of_queues(policy, "operator-policies", POLICIES["max-length"]),
    "deleted exchange": [delete_exchange(exchange) for exchange in TOPOLOGY.exchanges],
    "revoked permission": [revoke(service) for service in SERVICES],
}
"""Every kind of difference, for each queue, exchange or service."""


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    return await install_chorus("differences")


@contextmanager
def repaired(chorus: Installation) -> Iterator[Broker]:
    """The broker; afterwards it has the declared topology again."""
    with Administration(chorus.servers.rabbitmq_api_url) as api:
        broker = Broker(chorus, api)
        try:
            yield broker
        finally:
            for queue in TOPOLOGY.queues:
                api.delete(f"policies/{chorus.name}/bent-{queue.name}")
                api.delete(f"operator-policies/{chorus.name}/bent-{queue.name}")
                api.delete(f"queues/{chorus.name}/{queue.name}")
            api.apply(TOPOLOGY, {service: chorus.amqp_url(service) for service in SERVICES})


def checked(chorus: Installation, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    with environment(chorus.environment):
        status = check(settings())
    return status, capsys.readouterr().out.splitlines()


class TestCheck:
    def test_the_declared_topology_has_no_difference(
        self, chorus: Installation, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert checked(chorus, capsys) == (0, [])

    @pytest.mark.parametrize("kind", KINDS)
    async def test_every_difference_is_named(
        self, chorus: Installation, kind: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def changed() -> tuple[list[str], tuple[int, list[str]]]:
            with repaired(chorus) as broker:
                return [change(broker) for change in KINDS[kind]], checked(chorus, capsys)

        named, (status, lines) = await asyncio.to_thread(changed)
        assert status == 1
        assert [name for name in named if not any(name in line for line in lines)] == []

    def test_a_broker_that_does_not_answer_is_no_difference(
        self, chorus: Installation, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with environment(chorus.environment | {"CHORUS_RABBITMQ_API_URL": "http://127.0.0.1:9"}):
            assert check(settings()) == 2
        assert "ConnectError" in capsys.readouterr().err
        assert issubclass(httpx.ConnectError, httpx.HTTPError)
