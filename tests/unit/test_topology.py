"""Exchanges, queues and permissions, as the code asks the broker for them."""

import re
from uuid import UUID

import pytest

from apps import SERVICES
from chassis.messaging.topology import Queue, mermaid, queue_name, topology
from events.base import Event
from events.contracts import language
from events.orders import OrderPlaced
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY

QUEUES = {queue.name: queue for queue in TOPOLOGY.queues}
HEARING = [queue for queue in QUEUES.values() if queue.service and not queue.name.endswith(".dead")]


def test_an_exchange_per_publisher_and_one_for_the_dead() -> None:
    assert TOPOLOGY.exchanges == ("billing", "notifications", "orders", "users", "dead")
    assert {kind.exchange for kind in language().values()} <= set(SERVICES)


def test_a_queue_per_consumer_and_event() -> None:
    assert queue_name("billing", OrderPlaced) == "billing.order-placed"
    assert {queue.name for queue in HEARING} == {
        queue_name(service, kind) for service, kinds in SUBSCRIPTIONS.items() for kind in kinds
    }
    assert QUEUES["billing.order-placed"].bindings == (("orders", "order-placed.v1"),)
    assert QUEUES["notifications.payment-succeeded"].bindings == (
        ("billing", "payment-succeeded.v1"),
    )


def test_versions_of_an_event_are_heard_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "published", {})

    class OrderPlacedV2(Event, exchange="orders", key="order-placed.v2", subject="order_id"):
        """As it may be told one day."""

        order_id: UUID

    both = topology({"billing": (OrderPlaced, OrderPlacedV2)})
    queues = {queue.name: queue.bindings for queue in both.queues}
    assert queues["billing.order-placed"] == (("orders", "order-placed.v1"),)
    assert queues["billing.order-placed.v2"] == (("orders", "order-placed.v2"),)


@pytest.mark.parametrize("queue", HEARING, ids=lambda queue: queue.name)
def test_a_queue_loses_nothing_and_gives_up_late(queue: Queue) -> None:
    assert queue.arguments["x-queue-type"] == "quorum"
    assert queue.arguments["x-dead-letter-exchange"] == "dead"
    assert queue.arguments["x-dead-letter-routing-key"] == queue.service
    assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
    assert queue.arguments["x-overflow"] == "reject-publish"
    assert queue.arguments["x-delivery-limit"] >= 100
    assert queue.arguments["x-max-length"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_cannot_handle_lies_in_one_queue(service: str) -> None:
    dead = QUEUES[f"{service}.dead"]
    assert dead.bindings == (("dead", service),)
    assert dead.arguments["x-queue-type"] == "quorum"


def test_the_journal_keeps_everything_for_a_time() -> None:
    journal = QUEUES["journal"]
    assert journal.bindings == tuple((name, "#") for name in sorted(SERVICES))
    assert journal.arguments["x-queue-type"] == "stream"
    assert journal.arguments.keys() >= {"x-max-age", "x-max-length-bytes"}
    assert journal.service is None


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_writes_its_exchange_reads_its_queues_and_makes_nothing(service: str) -> None:
    may = TOPOLOGY.permissions(service)

    strangers = (
        f"x{service}",
        f"{service}x",
        f"x{service}.order-placed",
        f"{service}-2.dead",
        "deadly",
    )
    for name in (*TOPOLOGY.exchanges, *QUEUES, *strangers, "", "anything"):
        assert bool(re.search(may["configure"], name)) == (name == "")
        assert bool(re.search(may["write"], name)) == (name in (service, "dead"))
        assert bool(re.search(may["read"], name)) == name.startswith(f"{service}.")


def test_the_picture_shows_every_binding() -> None:
    picture = mermaid(TOPOLOGY)
    assert picture.startswith("flowchart LR\n")
    assert (
        "  orders{{orders}} -->|order-placed.v1| billing_order_placed[billing.order-placed]"
        in picture
    )
    assert "  billing_order_placed --> billing_service([billing])" in picture
    assert "  dead{{dead}} -->|orders| orders_dead[orders.dead]" in picture
    assert "  users{{users}} -->|#| journal[(journal)]" in picture
    assert len(picture.splitlines()) == 1 + sum(
        len(queue.bindings) + (queue in HEARING) for queue in TOPOLOGY.queues
    )
