"""The AsyncAPI 3.0 document of a service, made from the language (`events/`) and the topology that it travels by.

What the service says and hears, the channels on the broker, and of every message its two forms: alone, and in a
batch. Examples are what the bus itself would send. https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic.json_schema import models_json_schema

from chassis.messaging import outbox
from chassis.messaging.topology import DEAD, JOURNAL, Queue, queue_name
from events.base import Event
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY
from tools.asyncapi.messages import (
    BINDING,
    CORRELATION_IDS,
    Document,
    dead_letter,
    messages,
    structured,
    told_by,
)


@dataclass(frozen=True)
class Described:
    """The service that a document describes. `hears` says what it does about each event."""

    name: str
    description: str
    hears: Mapping[type[Event], str]
    broker_url: str | None = None
    """Where it connects to. Only the address is told, never the login."""

    @property
    def vhost(self) -> str:
        """The virtual host on the broker."""
        return unquote(urlsplit(self.broker_url or "").path[1:]) or "/"

    @property
    def says(self) -> list[type[Event]]:
        """The events that it publishes."""
        return [kind for kind in Event.published.values() if kind.exchange == self.name]


def asyncapi(service: Described) -> Document:
    """The document."""
    kinds = list(dict.fromkeys([*service.says, *service.hears]))
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    definitions = schemas.get("$defs", {})
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:chorus:{service.name}",
        "info": {
            "title": f"Chorus {service.name}: events",
            "version": "1",
            "description": service.description,
            "license": {"name": "MIT"},
        },
        "defaultContentType": outbox.JSON,
        "servers": {"broker": _server(service)},
        "channels": dict(_channels(service)),
        "operations": dict(_operations(service)),
        "components": {
            "messages": dict(messages(kinds, definitions)) | {"Parked": dead_letter()},
            "schemas": definitions
            | {f"{kind.__name__}InBatch": structured(kind) for kind in kinds},
            "correlationIds": CORRELATION_IDS,
            "securitySchemes": {"login": {"type": "userPassword", "description": _LOGIN}},
        },
    }


_LOGIN: Final = "A broker user per service: it may write its own exchange, read its own queues, and declare nothing."


def _server(service: Described) -> Document:
    url = urlsplit(service.broker_url or "amqp://127.0.0.1")
    return {
        "host": f"{url.hostname}:{url.port or 5672}",
        "protocol": "amqp",
        "protocolVersion": "0.9.1",
        "description": f"RabbitMQ, virtual host `{service.vhost}`. "
        f"Everything that is published is kept for a while in the stream `{JOURNAL}` as well.",
        "security": [{"$ref": "#/components/securitySchemes/login"}],
    }


def _channels(service: Described) -> Iterator[tuple[str, Document]]:
    for kind in service.says:
        yield (
            kind.key,
            {
                "address": kind.key,
                "title": f"{kind.__name__}, said",
                "description": f"The routing key `{kind.key}` of the exchange `{service.name}`.",
                "messages": _forms(kind, "#/components/messages"),
                "bindings": {"amqp": _exchange(service.name, service.vhost)},
            },
        )
    for queue in TOPOLOGY.queues:
        for kind in service.hears:
            if queue.name == queue_name(service.name, kind):
                yield queue.name, _queue(queue, kind, service.vhost)
        if queue.name == f"{service.name}.{DEAD}":
            yield (
                queue.name,
                {
                    "address": service.name,
                    "title": "Dead letters",
                    "description": f"The queue `{queue.name}`, through the exchange `{DEAD}`.",
                    "messages": {"Parked": {"$ref": "#/components/messages/Parked"}},
                    "bindings": {"amqp": _exchange(DEAD, service.vhost)},
                },
            )


def _exchange(name: str, vhost: str) -> Document:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False, "vhost": vhost}
    return {"is": "routingKey", "exchange": exchange, **BINDING}


def _queue(queue: Queue, kind: type[Event], vhost: str) -> Document:
    described = {
        "name": queue.name,
        "durable": True,
        "exclusive": False,
        "autoDelete": False,
        "vhost": vhost,
    }
    return {
        "address": queue.name,
        "title": f"{kind.__name__}, heard",
        "description": f"The queue `{queue.name}`, on the routing key `{kind.key}` "
        f"of the exchange `{kind.exchange}`.",
        "messages": _forms(kind, "#/components/messages"),
        "bindings": {"amqp": {"is": "queue", "queue": described, **BINDING}},
        "x-bound-to": [
            {"exchange": exchange, "routingKey": key} for exchange, key in queue.bindings
        ],
        "x-arguments": queue.arguments,
    }


def _forms(kind: type[Event], where: str) -> Document:
    names = (kind.__name__, f"{kind.__name__}Batch")
    return {name: {"$ref": f"{where}/{name}"} for name in names}


def _operations(service: Described) -> Iterator[tuple[str, Document]]:
    for kind in service.says:
        yield (
            f"say{kind.__name__}",
            {
                "action": "send",
                "title": f"Says {kind.__name__}",
                **told_by(kind),
                **_on(kind.key, kind),
                "bindings": {
                    "amqp": {"deliveryMode": 2, "mandatory": True, "timestamp": True, **BINDING}
                },
                "x-heard-by": [
                    name for name, received in SUBSCRIPTIONS.items() if kind in received
                ],
            },
        )
    for kind, reaction in service.hears.items():
        yield (
            f"hear{kind.__name__}",
            {
                "action": "receive",
                "title": f"Hears {kind.__name__}",
                "summary": reaction,
                **_on(queue_name(service.name, kind), kind),
                "bindings": {"amqp": {"ack": True, **BINDING}},
                "x-said-by": kind.exchange,
            },
        )
    dead = f"{service.name}.{DEAD}"
    yield (
        "park",
        {
            "action": "send",
            "title": "Parks a message",
            "summary": "What cannot be handled is set aside, whole, with its reason.",
            "channel": {"$ref": f"#/channels/{dead}"},
            "messages": [{"$ref": f"#/channels/{dead}/messages/Parked"}],
            "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, **BINDING}},
        },
    )


def _on(channel: str, kind: type[Event]) -> Document:
    messages = list(_forms(kind, f"#/channels/{channel}/messages").values())
    return {"channel": {"$ref": f"#/channels/{channel}"}, "messages": messages}
