"""What an operator may do to a broker's topology, and how `chorus topology --check` and a service name it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from chassis.messaging.topology import Queue, Topology
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.support.installation import Installation

POLICIES: Final[dict[str, dict[str, Any]]] = {
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
        exchange, _ = queue.bindings[0]
        broker.send("POST", f"bindings/VHOST/e/{exchange}/q/{queue.name}", {"routing_key": "other"})
        return f"binding {exchange} -> {queue.name} (other): not declared"

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


def kinds(topology: Topology) -> dict[str, list[Change]]:
    """Every kind of difference, for each queue or exchange."""

    def of_queues(change: Callable[..., Change], *arguments: Any) -> list[Change]:
        return [change(queue, *arguments) for queue in topology.queues]

    return {
        "deleted queue": of_queues(delete_queue),
        "other arguments": of_queues(other_arguments),
        "deleted binding": of_queues(delete_binding),
        "extra binding": of_queues(extra_binding),
        **{name: of_queues(policy, "policies", bent) for name, bent in POLICIES.items()},
        "operator policy": of_queues(policy, "operator-policies", POLICIES["max-length"]),
        "deleted exchange": [delete_exchange(exchange) for exchange in topology.exchanges],
    }


@contextmanager
def repaired(chorus: Installation, changed: Topology = TOPOLOGY) -> Iterator[Broker]:
    """The broker; afterwards what may have been changed is as declared again."""
    with Administration(chorus.servers.rabbitmq_api_url) as api:
        broker = Broker(chorus, api)
        try:
            yield broker
        finally:
            for queue in changed.queues:
                api.delete(f"policies/{chorus.name}/bent-{queue.name}")
                api.delete(f"operator-policies/{chorus.name}/bent-{queue.name}")
                api.delete(f"queues/{chorus.name}/{queue.name}")
            api.apply(TOPOLOGY, {s: chorus.amqp_url(s) for s in chorus.services})


@asynccontextmanager
async def with_changes(
    chorus: Installation, changed: Topology, *changes: Change
) -> AsyncIterator[tuple[Broker, list[str]]]:
    """The broker with changes, and how each is named; they are undone at the end of the block."""
    repairing = repaired(chorus, changed)
    broker = await asyncio.to_thread(repairing.__enter__)
    try:
        yield broker, await asyncio.to_thread(lambda: [change(broker) for change in changes])
    finally:
        await asyncio.to_thread(repairing.__exit__, None, None, None)
