"""The AsyncAPI documents that the services serve: valid, complete, and true to what is published over the broker."""

import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import jsonschema_rs
import pytest
from fastapi import FastAPI

from apps import SERVICES
from chassis.messaging import message as wire
from chassis.messaging.dead_letters import with_reason
from chassis.web import documents
from chassis.web.app import Application
from events.base import Envelope, Event
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY
from tools.documents.asyncapi import asyncapi, page

Document = dict[str, Any]

SCHEMA = Path(__file__).parents[2] / "support" / "asyncapi" / "schema.json"


@cache
def official() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))


def application(service: str, package: str | None) -> FastAPI:
    """An application that has nothing but the documents of a service."""
    app = Application()
    app.routes.extend(documents.router(service, package).routes)
    return app


def served(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def fetched(service: str, path: str) -> httpx.Response:
    async with served(importlib.import_module(f"apps.{service}.main").app) as http:
        return await http.get(path)


@pytest.fixture(params=SERVICES)
async def document(request: pytest.FixtureRequest) -> Document:
    answer = await fetched(request.param, "/asyncapi.json")
    assert answer.status_code == 200
    found: Document = answer.json()
    return found


def service_of(document: Document) -> str:
    return str(document["id"]).rpartition(":")[2]


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for name, inner in part.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def at(document: Document, reference: str) -> Any:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def fits(document: Document, schema: Document, value: Any) -> None:
    jsonschema_rs.validate(
        schema | {"components": document["components"]}, value, validate_formats=True
    )


def test_a_document_is_valid_asyncapi(document: Document) -> None:
    official().validate(document)


def test_an_invalid_document_is_found(document: Document) -> None:
    channel = next(iter(document["channels"].values()))
    channel["bindings"]["amqp"]["is"] = "pigeon"
    assert not official().is_valid(document)


def test_every_reference_leads_somewhere(document: Document) -> None:
    for reference in references(document):
        assert at(document, reference) is not None


def test_a_service_receives_what_it_subscribes_to(document: Document) -> None:
    service = service_of(document)
    operations = [op for op in document["operations"].values() if op["action"] == "receive"]
    received = {
        at(document, at(document, op["messages"][0]["$ref"])["$ref"])["name"] for op in operations
    }
    assert received == {kind.__name__ for kind in SUBSCRIPTIONS[service]}


def test_a_service_publishes_every_event_of_its_exchange(document: Document) -> None:
    service = service_of(document)
    operations = document["operations"]
    published = {id.removeprefix("publish") for id in operations if id.startswith("publish")}
    events = Event.by_key.values()
    assert published == {kind.__name__ for kind in events if kind.exchange == service}


def test_a_published_event_names_its_consumers_and_a_received_one_its_publisher(
    document: Document,
) -> None:
    kinds = {kind.__name__: kind for kind in Event.by_key.values()}
    for id, operation in document["operations"].items():
        if id.startswith("publish"):
            kind = kinds[id.removeprefix("publish")]
            consumers = [name for name, kinds in SUBSCRIPTIONS.items() if kind in kinds]
            assert operation["title"] == f"Publishes {kind.__name__}"
            assert operation["x-consumed-by"] == consumers
        elif id.startswith("receive"):
            kind = kinds[id.removeprefix("receive")]
            assert operation["title"] == f"Receives {kind.__name__}"
            assert operation["x-published-by"] == kind.exchange
        assert operation["summary"], id


def test_the_queues_are_those_of_the_topology(document: Document) -> None:
    queues = {queue.name: queue for queue in TOPOLOGY.queues}
    for name, channel in document["channels"].items():
        binding = channel["bindings"]["amqp"]
        if binding["is"] == "queue":
            assert binding["queue"]["name"] == name
            assert channel["x-arguments"] == queues[name].arguments
            bound = [(b["exchange"], b["routingKey"]) for b in channel["x-bound-to"]]
            assert bound == list(queues[name].bindings)
        else:
            assert binding["exchange"]["name"] in TOPOLOGY.exchanges


def test_every_event_is_described_alone_and_in_a_batch(document: Document) -> None:
    messages = document["components"]["messages"]
    for name, alone in messages.items():
        if name == "DeadLetter" or name.endswith("Batch"):
            continue
        batch = messages[f"{name}Batch"]
        assert alone["contentType"] == "application/json"
        assert batch["contentType"] == "application/cloudevents-batch+json"
        assert "batch_size" in batch["headers"]["properties"]
        assert alone["summary"]
        for message in (alone, batch):
            assert message["bindings"]["amqp"]["messageType"] == name
            assert message["x-amqp-properties"]["properties"]["type"] == {"const": name}


def test_examples_fit_their_schemas(document: Document) -> None:
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            fits(document, message["payload"], example["payload"])
            fits(document, message["headers"], example["headers"])


def test_examples_can_be_consumed(document: Document) -> None:
    kinds = {kind.__name__: kind for kind in Event.by_key.values()}
    for name, message in document["components"]["messages"].items():
        for example in message.get("examples", ()):
            kind = kinds[name.removesuffix("Batch")]
            published = aio_pika.Message(
                json.dumps(example["payload"]).encode(),
                headers=example["headers"],
                content_type=message["contentType"],
                correlation_id="flow",
            )
            received = wire.from_message(published, kind)
            assert received
            assert all(isinstance(one, Envelope) for one in received)


def test_headers_are_those_that_are_published(document: Document) -> None:
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            assert set(example["headers"]) == set(message["headers"]["properties"])


def test_a_dead_letter_has_the_headers_that_are_described(document: Document) -> None:
    dead_letter = with_reason(
        aio_pika.Message(b""), queue="q", exchange="e", key="k", error=ValueError("no"), attempts=1
    )
    described = document["components"]["messages"]["DeadLetter"]["headers"]
    assert set(dead_letter.headers) == set(described["properties"])
    fits(document, described, dict(dead_letter.headers))


async def test_the_broker_s_address_is_shown_without_the_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = "mq.example:5673", "other.example"
    url = f"amqp://billing:s3cret@{first}/sh%22o%3Cp,amqp://billing:s3cret@{second}/"
    monkeypatch.setenv("CHORUS_AMQP_URL_BILLING", url)
    async with served(application("billing", "apps.billing")) as http:
        text = (await http.get("/asyncapi.json")).text
        html = (await http.get("/asyncapi")).text
    document = json.loads(text)
    assert document["servers"]["broker"]["host"] == first
    assert '`sh"o<p`' in document["servers"]["broker"]["description"]
    vhosts = {
        part["vhost"]
        for channel in document["channels"].values()
        for part in channel["bindings"]["amqp"].values()
        if isinstance(part, dict)
    }
    assert vhosts == {'sh"o<p'}
    assert f"amqp://{first}" in html
    assert "sh&quot;o&lt;p" in html
    for shown in (text, html):
        assert "s3cret" not in shown
        assert "__" not in shown


@pytest.mark.parametrize("service", SERVICES)
async def test_the_page_shows_every_message_and_loads_nothing_from_elsewhere(service: str) -> None:
    page = await fetched(service, "/asyncapi")
    for heading in ("Publishes", "Receives", "Dead letters"):
        assert f"<h2>{heading}</h2>" in page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    document = (await fetched(service, "/asyncapi.json")).json()
    for message in document["components"]["messages"].values():
        assert message["title"].removesuffix(", message batch") in page.text
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', page.text):
        if not address.startswith("#"):
            assert (await fetched(service, f"/{address}")).status_code == 200
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_what_the_page_shows_is_escaped() -> None:
    def consumer() -> None:
        """Calls <script>alert(1)</script>."""

    html = page(asyncapi("billing", "<img src=x>", {SUBSCRIPTIONS["billing"][0]: consumer}))
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
