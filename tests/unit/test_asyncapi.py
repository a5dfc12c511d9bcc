"""What the AsyncAPI documents promise about themselves: valid, complete, and true to the bus."""

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

from apps import SERVICES
from chassis.messaging import message as wire
from chassis.messaging.dead_letters import with_reason
from events.base import Envelope, Event
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY
from tools.asyncapi.document import Described, asyncapi

Document = dict[str, Any]

SCHEMA = Path(__file__).parents[1] / "support" / "asyncapi" / "schema.json"


@cache
def official() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()))


async def fetched(service: str, path: str) -> httpx.Response:
    app = importlib.import_module(f"apps.{service}.main").app
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
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


def test_a_broken_document_would_be_noticed(document: Document) -> None:
    channel = next(iter(document["channels"].values()))
    channel["bindings"]["amqp"]["is"] = "pigeon"
    assert not official().is_valid(document)


def test_every_reference_leads_somewhere(document: Document) -> None:
    for reference in references(document):
        assert at(document, reference) is not None


def test_a_service_hears_what_the_topology_says(document: Document) -> None:
    service = service_of(document)
    operations = [op for op in document["operations"].values() if op["action"] == "receive"]
    received = {
        at(document, at(document, op["messages"][0]["$ref"])["$ref"])["name"] for op in operations
    }
    assert received == {kind.__name__ for kind in SUBSCRIPTIONS[service]}


def test_a_service_says_every_event_of_its_exchange(document: Document) -> None:
    service = service_of(document)
    said = {id.removeprefix("say") for id in document["operations"] if id.startswith("say")}
    events = Event.published.values()
    assert said == {kind.__name__ for kind in events if kind.exchange == service}


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
        if name == "Parked" or name.endswith("Batch"):
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


def test_examples_can_be_heard(document: Document) -> None:
    kinds = {kind.__name__: kind for kind in Event.published.values()}
    for name, message in document["components"]["messages"].items():
        for example in message.get("examples", ()):
            kind = kinds[name.removesuffix("Batch")]
            travelling = aio_pika.Message(
                json.dumps(example["payload"]).encode(),
                headers=example["headers"],
                content_type=message["contentType"],
                correlation_id="flow",
            )
            received = wire.from_message(travelling, kind)
            assert received
            assert all(isinstance(one, Envelope) for one in received)


def test_headers_are_those_that_the_bus_writes(document: Document) -> None:
    for message in document["components"]["messages"].values():
        for example in message.get("examples", ()):
            assert set(example["headers"]) == set(message["headers"]["properties"])


def test_a_parked_message_has_the_headers_that_are_described(document: Document) -> None:
    dead_letter = with_reason(
        aio_pika.Message(b""), queue="q", exchange="e", key="k", error=ValueError("no"), attempts=1
    )
    described = document["components"]["messages"]["Parked"]["headers"]
    assert set(dead_letter.headers) == set(described["properties"])
    fits(document, described, dict(dead_letter.headers))


def test_the_login_of_the_broker_is_not_told() -> None:
    url = "amqp://billing:s3cret@mq.example:5673/shop"
    document = asyncapi(Described("billing", "", {}, url))
    assert "s3cret" not in json.dumps(document)
    assert document["servers"]["broker"]["host"] == "mq.example:5673"
    assert "`shop`" in document["servers"]["broker"]["description"]


@pytest.mark.parametrize("service", SERVICES)
async def test_the_page_tells_every_message_and_loads_nothing_from_elsewhere(service: str) -> None:
    page = await fetched(service, "/asyncapi")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    document = (await fetched(service, "/asyncapi.json")).json()
    for message in document["components"]["messages"].values():
        assert message["title"].removesuffix(", several at once") in page.text
    for address in re.findall(r'(?:src|href|action)="([^"]*)"', page.text):
        if not address.startswith("#"):
            assert (await fetched(service, f"/{address}")).status_code == 200
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_what_the_page_shows_is_escaped() -> None:
    from chassis.web.documents import _templates
    from chassis.web.pages import sections

    hears = {SUBSCRIPTIONS["billing"][0]: "<script>alert(1)</script>"}
    document = asyncapi(Described("billing", "<img src=x>", hears))
    page = _templates().get_template("asyncapi.html")
    html = page.render(document=document, sections=sections(document))
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


def test_the_same_document_is_made_every_time() -> None:
    hears = dict.fromkeys(SUBSCRIPTIONS["orders"], "")
    first, second = (asyncapi(Described("orders", "", hears)) for _ in range(2))

    assert first == second
