"""Exchanges, queues and permissions as the code defines them."""

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
CONSUMED = [
    queue for queue in QUEUES.values() if queue.service and not queue.name.endswith(".dead")
]


class TestTopology:
    """Exchanges, queues and permissions."""

    def test_exchanges_per_publisher_and_one_of_the_brokers_for_dead_letters(self) -> None:
        publishers = ("billing", "notifications", "orders", "users")
        dead = ("dead", *(f"dead.{name}" for name in publishers))
        assert TOPOLOGY.exchanges == (*publishers, *dead)
        assert {kind.exchange for kind in language().values()} <= set(SERVICES)

    def test_a_queue_per_consumer_and_event(self) -> None:
        assert queue_name("billing", OrderPlaced) == "billing.order-placed"
        assert {queue.name for queue in CONSUMED} == {
            queue_name(service, kind) for service, kinds in SUBSCRIPTIONS.items() for kind in kinds
        }
        assert QUEUES["billing.order-placed"].bindings == (("orders", "order-placed.v1"),)
        assert QUEUES["notifications.payment-succeeded"].bindings == (
            ("billing", "payment-succeeded.v1"),
        )

    def test_events_declare_whether_a_service_subscribes_to_them(self) -> None:
        subscribed = {kind for kinds in SUBSCRIPTIONS.values() for kind in kinds}
        assert {kind for kind in language().values() if kind.subscribed} == subscribed

    def test_versions_of_an_event_have_queues_of_their_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Event, "by_key", {})

        class OrderPlacedV2(Event, exchange="orders", key="order-placed.v2", subject="order_id"):
            """A later version."""

            order_id: UUID

        both = topology({"billing": (OrderPlaced, OrderPlacedV2)})
        queues = {queue.name: queue.bindings for queue in both.queues}
        assert queues["billing.order-placed"] == (("orders", "order-placed.v1"),)
        assert queues["billing.order-placed.v2"] == (("orders", "order-placed.v2"),)

    @pytest.mark.parametrize("queue", CONSUMED, ids=lambda queue: queue.name)
    def test_a_queue_loses_nothing_and_has_a_high_delivery_limit(self, queue: Queue) -> None:
        assert queue.arguments["x-queue-type"] == "quorum"
        assert queue.arguments["x-dead-letter-exchange"] == "dead"
        assert queue.arguments["x-dead-letter-routing-key"] == queue.service
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-overflow"] == "reject-publish"
        assert queue.arguments["x-delivery-limit"] >= 100
        assert queue.arguments["x-max-length"] > 0

    @pytest.mark.parametrize("service", SERVICES)
    def test_each_service_has_one_dead_letter_queue(self, service: str) -> None:
        dead = QUEUES[f"{service}.dead"]
        assert dead.bindings == (("dead", service), (f"dead.{service}", service))
        assert dead.arguments["x-queue-type"] == "quorum"

    def test_the_journal_is_a_bounded_stream_of_all_exchanges(self) -> None:
        journal = QUEUES["journal"]
        assert journal.bindings == tuple((name, "journal.#") for name in sorted(SERVICES))
        assert journal.arguments["x-queue-type"] == "stream"
        assert journal.arguments.keys() >= {"x-max-age", "x-max-length-bytes"}
        assert journal.service is None

    @pytest.mark.parametrize("service", SERVICES)
    def test_a_service_may_write_its_exchange_read_its_queues_and_configure_nothing(
        self, service: str
    ) -> None:
        may = TOPOLOGY.permissions(service)

        strangers = (
            f"x{service}",
            f"{service}x",
            f"x{service}.order-placed",
            f"{service}-2.dead",
            "dead",
            f"deadx{service}",
            f"dead.x{service}",
        )
        for name in (*TOPOLOGY.exchanges, *QUEUES, *strangers, "", "anything"):
            assert bool(re.search(may["configure"], name)) == (name == "")
            assert bool(re.search(may["write"], name)) == (name in (service, f"dead.{service}"))
            assert bool(re.search(may["read"], name)) == name.startswith(f"{service}.")

    def test_the_flowchart_has_every_binding(self) -> None:
        picture = mermaid(TOPOLOGY)
        assert picture.startswith("flowchart LR\n")
        assert (
            "  orders{{orders}} -->|order-placed.v1| billing_order_placed[billing.order-placed]"
            in picture
        )
        assert "  billing_order_placed --> billing_service([billing])" in picture
        assert "  dead{{dead}} -->|orders| orders_dead[orders.dead]" in picture
        assert "  users{{users}} -->|journal.#| journal[(journal)]" in picture
        assert len(picture.splitlines()) == 1 + sum(
            len(queue.bindings) + (queue in CONSUMED) for queue in TOPOLOGY.queues
        )
