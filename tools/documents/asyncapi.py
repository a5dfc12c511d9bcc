"""The AsyncAPI 3.0 document of a service, and its page: what it publishes and receives, and the channels for it.

Made from the events, the topology and the service's subscriptions.
https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic.json_schema import models_json_schema

from chassis.messaging import outbox
from chassis.messaging.topology import DEAD, JOURNAL, dead_letter_exchange, queue_name
from chassis.web.documents import BROKER, VHOST
from events.base import Event
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY
from tools.documents.messages import BINDING, DEAD_LETTER, described_by, forms
from tools.documents.schemas import Document, inlined

Consumers = Mapping[type[Event], object]
"""The function that consumes each event. Its docstring describes what the service does about it."""

_LOGIN: Final = "A broker user per service: it may write its own exchange, read its own queues, and declare nothing."
_SENT: Final[Document] = {"deliveryMode": 2, "mandatory": True}
_SECTIONS: Final = {"Publishes": "publish", "Receives": "receive", "Dead letters": "deadLetter"}
"""Headings of the page, and how the ids of the operations below each begin."""

_DURABLE: Final[Document] = {"durable": True, "autoDelete": False, "vhost": VHOST}


def asyncapi(service: str, description: str, consumers: Consumers) -> Document:
    """The document, with placeholders for the broker's address. The service publishes the events of its exchange."""
    published = [kind for kind in Event.by_key.values() if kind.exchange == service]
    kinds = list(dict.fromkeys([*published, *consumers]))
    _, bodies = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    messages = {message["name"]: message for kind in kinds for message in forms(kind)}
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:chorus:{service}",
        "info": {
            "title": f"Chorus {service}: events",
            "version": "1",
            "description": description,
            "license": {"name": "MIT"},
        },
        "defaultContentType": outbox.JSON,
        "servers": {
            "broker": {
                "host": BROKER,
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": f"RabbitMQ, virtual host `{VHOST}`. "
                f"The stream `{JOURNAL}` keeps every published event for a while.",
                "security": [_reference("components/securitySchemes", "login")],
            }
        },
        "channels": _channels(service, published, consumers),
        "operations": _operations(service, published, consumers),
        "components": {
            "messages": messages | {"DeadLetter": DEAD_LETTER},
            "schemas": bodies.get("$defs", {}),
            "securitySchemes": {"login": {"type": "userPassword", "description": _LOGIN}},
        },
    }


def _channels(service: str, published: Iterable[type[Event]], consumers: Consumers) -> Document:
    queues = {queue.name: queue for queue in TOPOLOGY.queues}
    found: Document = {}
    for kind in published:
        where = f"The routing key `{kind.key}` of the exchange `{service}`."
        title = f"{kind.__name__}, published"
        found[kind.key] = _channel(kind.key, title, where, _forms(kind), _exchange(service))
    for kind in consumers:
        queue = queues[queue_name(service, kind)]
        where = f"The queue `{queue.name}`, on the routing key `{kind.key}` of the exchange `{kind.exchange}`."
        title = f"{kind.__name__}, received"
        binding = {"is": "queue", "queue": {"name": queue.name, "exclusive": False, **_DURABLE}}
        found[queue.name] = _channel(queue.name, title, where, _forms(kind), binding) | {
            "x-bound-to": [{"exchange": name, "routingKey": key} for name, key in queue.bindings],
            "x-arguments": queue.arguments,
        }
    dead, exchange = f"{service}.{DEAD}", dead_letter_exchange(service)
    where = f"The queue `{dead}`, through the exchange `{exchange}`."
    found[dead] = _channel(service, "Dead letters", where, ["DeadLetter"], _exchange(exchange))
    return found


def _channel(
    address: str, title: str, description: str, messages: Iterable[str], binding: Document
) -> Document:
    return {
        "address": address,
        "title": title,
        "description": description,
        "messages": {name: _reference("components/messages", name) for name in messages},
        "bindings": {"amqp": {**binding, **BINDING}},
    }


def _exchange(name: str) -> Document:
    return {"is": "routingKey", "exchange": {"name": name, "type": "topic", **_DURABLE}}


def _operations(service: str, published: Iterable[type[Event]], consumers: Consumers) -> Document:
    found: Document = {}
    for kind in published:
        found[f"publish{kind.__name__}"] = {
            "action": "send",
            "title": f"Publishes {kind.__name__}",
            **described_by(kind),
            **_on(kind.key, _forms(kind), {"timestamp": True, **_SENT}),
            "x-consumed-by": [name for name, kinds in SUBSCRIPTIONS.items() if kind in kinds],
        }
    for kind, consumer in consumers.items():
        found[f"receive{kind.__name__}"] = {
            "action": "receive",
            "title": f"Receives {kind.__name__}",
            **described_by(consumer),
            **_on(queue_name(service, kind), _forms(kind), {"ack": True}),
            "x-published-by": kind.exchange,
        }
    found["deadLetter"] = {
        "action": "send",
        "title": "Dead-letters a message",
        "summary": "A message that cannot be handled is moved to the dead-letter queue, whole, with the reason.",
        **_on(f"{service}.{DEAD}", ["DeadLetter"], _SENT),
    }
    return found


def _on(channel: str, messages: Iterable[str], binding: Document) -> Document:
    return {
        "channel": _reference("channels", channel),
        "messages": [_reference(f"channels/{channel}/messages", name) for name in messages],
        "bindings": {"amqp": {**binding, **BINDING}},
    }


def _forms(kind: type[Event]) -> tuple[str, str]:
    return kind.__name__, f"{kind.__name__}Batch"


def _reference(where: str, name: str) -> Document:
    return {"$ref": f"#/{where}/{name}"}


def page(document: Document) -> str:
    """The page as HTML. It loads only files that the service serves beside it."""
    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    templates.filters["prose"] = _prose
    operations = inlined(document["operations"], document)
    sections = {
        title: {id: each for id, each in operations.items() if id.startswith(prefix)}
        for title, prefix in _SECTIONS.items()
    }
    html = templates.get_template("asyncapi.html").render(document, sections=sections)
    return re.sub(r"\n\s*\n", "\n", html) + "\n"


def _prose(text: str) -> Markup:
    """Text with `code` in it, as docstrings and descriptions have it."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped
