"""The story of `chorus trace`, made of facts alone: the tree of causes, and why a hop is missing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from apps import SERVICES
from ops.audit.broker import Queue, Queues
from ops.trace.facts import DeadLettered, Facts, Published, Received, Record
from ops.trace.pages import mermaid, tree
from ops.trace.story import Story, compose, document

NOW = datetime(2026, 12, 2, 14, 0, tzinfo=UTC)
THEN = NOW - timedelta(minutes=1)
ORDER, USER, NOTIFICATION = UUID(int=1), UUID(int=2), UUID(int=3)
PLACED, SUCCEEDED, PAID, SENT = (UUID(int=64 * number) for number in range(1, 5))
IDLE = Queue(ready=0, unacknowledged=0, consumers=1)


def event(id: UUID, name: str, subject: UUID, cause: UUID | None, *, batch: int = 1) -> Published:
    return Published(id, name, str(subject), "flow", cause, THEN, batch, id)


def paid() -> Facts:
    """Everything about a paid order whose e-mail is sent."""
    events = [
        event(PLACED, "OrderPlaced", ORDER, None),
        event(SUCCEEDED, "PaymentSucceeded", ORDER, PLACED, batch=64),
        event(PAID, "OrderPaid", ORDER, SUCCEEDED),
        event(SENT, "NotificationSent", NOTIFICATION, SUCCEEDED),
    ]
    at = Received(THEN + timedelta(milliseconds=20), 1)
    return Facts(
        NOW,
        events={one.id: one for one in events},
        received={
            ("billing", PLACED): at,
            ("orders", SUCCEEDED): at,
            ("notifications", SUCCEEDED): at,
        },
        orders={ORDER: order("paid")},
        charges={ORDER: charge()},
        notifications=[notification()],
        sessions=dict.fromkeys(SERVICES, 1),
        queues=Queues(
            {"billing.order-placed": IDLE, "orders.payment-succeeded": IDLE}, delayed=True
        ),
    )


def order(status: str) -> Record:
    settled = {"id": ORDER, "status": status, "reason": None}
    return settled | {"user_id": USER, "total": 3000, "placed_at": THEN}


def charge() -> Record:
    return {"order_id": ORDER, "status": "paid", "reason": None, "balance": 7000, "account_version": 2}  # fmt: skip


def notification(**changes: Any) -> Record:
    return {
        "id": NOTIFICATION, "user_id": USER, "order_id": ORDER, "kind": "joy", "channel": "email",
        "address": "ada@example.com", "status": "sent", "attempts": 0, "due_at": None, "answer": "250 OK",
        "sent_at": THEN, "causation_id": SUCCEEDED,
    } | changes  # fmt: skip


def unreceived(**changes: Any) -> Facts:
    """An order that billing has not handled."""
    facts = paid()
    placed = {PLACED: facts.events[PLACED]}
    pending: dict[str, Any] = {
        "events": placed,
        "received": {},
        "orders": {ORDER: order("pending")},
    }
    return replace(facts, **pending | {"charges": {}, "notifications": []} | changes)


def page(story: Story) -> str:
    console = Console(width=1000, color_system=None)
    with console.capture() as captured:
        console.print(tree(story))
    return captured.get()


class TestTree:
    def test_events_hang_below_the_service_that_handled_their_cause(self) -> None:
        story = compose(paid())
        [placed] = story.roots
        [billing] = placed.deliveries
        [succeeded] = billing.caused
        assert {d.service: [n.event.name for n in d.caused] for d in succeeded.deliveries} == {
            "orders": ["OrderPaid"],
            "notifications": ["NotificationSent"],
        }
        assert story.missing == ()

    def test_an_event_whose_cause_is_unknown_is_a_root(self) -> None:
        facts = paid()
        del facts.events[PLACED]
        assert [root.event.name for root in compose(facts).roots] == ["PaymentSucceeded"]

    def test_every_event_is_in_the_tree_whatever_its_cause_claims(self) -> None:
        facts = paid()
        facts.events[PLACED] = event(PLACED, "OrderPlaced", ORDER, PAID)
        assert {node.event.id for node in compose(facts).nodes} == facts.events.keys()

    def test_its_page_has_times_batches_the_decision_and_the_answer(self) -> None:
        shown = page(compose(paid()))
        assert "PaymentSucceeded" in shown
        assert "with 63 others" in shown
        assert "billing  13:59:00.020 handled, +20 ms" in shown
        assert "paid, balance after it 70.00, version 2" in shown
        assert "email of joy to ada@example.com  13:59:00.000 sent: 250 OK" in shown

    def test_an_answer_does_not_control_the_terminal(self) -> None:
        facts = replace(paid(), notifications=[notification(answer="250 \x1b[2J [red]OK")])
        assert "250  [2J [red]OK" in page(compose(facts))
        assert "\x1b" not in mermaid(compose(facts))

    def test_a_diagram_has_an_arrow_for_each_delivery(self) -> None:
        facts = replace(paid(), notifications=[notification(answer="250 a;b#c")])
        lines = [line.strip() for line in mermaid(compose(facts)).splitlines()]
        assert "orders-)billing: OrderPlaced, +20 ms" in lines
        assert "notifications->>client: email of joy, sent 250 a b c" in lines
        assert "orders--xbilling: OrderPlaced" in mermaid(compose(unreceived()))

    def test_its_document_is_json(self) -> None:
        shown = document(compose(paid()))
        assert shown["complete"] is True
        assert shown["events"][0]["type"] == "OrderPlaced"
        assert shown["events"][0]["deliveries"][0]["handledAt"] == "2026-12-02T13:59:00.020000Z"
        assert shown["charges"][0]["balance"] == "70.00"


QUEUE = "billing.order-placed"


def queues(*, unbound: bool = False, **figures: Any) -> Queues:
    return Queues(
        {QUEUE: IDLE._replace(**figures)}, frozenset({QUEUE} if unbound else ()), delayed=True
    )


DEAD = DeadLettered("billing", QUEUE, "KeyError: 1", 4, THEN, str(PLACED))


class TestReasons:
    @pytest.mark.parametrize(
        ("facts", "place", "reason"),
        [
            ({"outbox": {PLACED: NOW}}, "outbox", "rests until 14:00:00.000"),
            ({"outbox": {PLACED: NOW}, "queues": queues(unbound=True)}, "outbox", "no queue is bound"),
            ({"outbox": {PLACED: None}, "sessions": {}}, "outbox", "orders does not run"),
            ({"outbox": {PLACED: None}, "queues": None}, "outbox", "broker does not answer"),
            ({"outbox": {PLACED: None}}, "outbox", "does not confirm"),
            ({"outbox": {PLACED: None}, "now": THEN}, "outbox", "is being published"),
            ({"dead": [DEAD]}, "dead letters", "after 4 attempts: KeyError"),
            ({"queues": None}, "unknown", "does not answer or is not configured"),
            ({"queues": Queues({})}, "lost", "no such queue"),
            ({"queues": queues(ready=3, consumers=0), "sessions": {}}, "queue", "billing does not run"),
            ({"queues": queues(ready=3, consumers=0)}, "queue", "cut off from the broker"),
            ({"queues": queues(ready=3)}, "queue", "billing is behind"),
            ({"queues": queues(unacknowledged=1)}, "consumer", "or hangs"),
            ({"queues": queues(), "now": THEN}, "under way", "too young"),
            ({"queues": queues(unbound=True)}, "lost", "not bound"),
            ({"queues": queues()}, "lost", "in no queue"),
            ({"queues": Queues({QUEUE: Queue(0, None, 1)})}, "unknown", "billing has it, or it is lost"),
        ],
    )  # fmt: skip
    def test_why_an_event_is_not_handled(
        self, facts: dict[str, Any], place: str, reason: str
    ) -> None:
        [missing] = compose(unreceived(**facts)).missing
        assert missing.place == place
        assert reason in missing.reason
        assert missing.event == PLACED

    def test_dead_letters_that_cannot_be_read_leave_it_unknown(self) -> None:
        found = Queues({QUEUE: IDLE, "billing.dead": Queue(2, 0, 0)})
        [missing] = compose(unreceived(queues=found, dead=None)).missing
        assert (missing.place, missing.where) == ("unknown", "billing.dead")
        [missing] = compose(unreceived(queues=found, dead=[])).missing
        assert missing.place == "lost"

    def test_a_dead_letter_of_another_event_or_queue_is_no_reason(self) -> None:
        others = [
            DEAD._replace(text=str(PAID)),
            DEAD._replace(queue="billing.order-cancelled"),
            DEAD._replace(service="orders"),
        ]
        [missing] = compose(unreceived(dead=others)).missing
        assert missing.place == "lost"

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"status": "waiting"}, f"{USER} is unknown to notifications, and to users"),
            ({"status": "pending", "due_at": NOW, "attempts": 2, "answer": "451 later"}, "451 later"),
            ({"status": "pending", "due_at": NOW + timedelta(seconds=9)}, "being sent"),
            ({"status": "pending", "due_at": THEN}, "the mail server is away"),
        ],
    )  # fmt: skip
    def test_why_a_notification_is_not_sent(self, changes: dict[str, Any], reason: str) -> None:
        facts = replace(paid(), notifications=[notification(**changes | {"sent_at": None})])
        [missing] = compose(facts).missing
        assert missing.place == "notification"
        assert reason in missing.reason

    def test_a_notification_is_not_sent_while_notifications_does_not_run(self) -> None:
        pending = notification(status="pending", due_at=THEN, sent_at=None)
        facts = replace(paid(), notifications=[pending], sessions={})
        [missing] = compose(facts).missing
        assert "notifications does not run" in missing.reason

    def test_an_event_that_nobody_consumes_is_missing_while_it_is_not_published(self) -> None:
        [missing] = compose(replace(paid(), outbox={PAID: None})).missing
        assert (missing.place, missing.where) == ("outbox", "outbox of orders")
        assert missing.reason == "OrderPaid: the broker does not confirm it"

    def test_an_event_that_a_table_proves_and_no_log_has(self) -> None:
        facts = replace(paid(), absent=[("OrderPaid", str(ORDER), THEN)])
        [missing] = compose(facts).missing
        assert missing.place == "event log"
        assert "has no OrderPaid" in missing.reason

    def test_an_order_that_only_others_know(self) -> None:
        [missing] = compose(replace(paid(), orders={ORDER: None})).missing
        assert missing.where == "orders"

    def test_what_no_hop_explains_is_said(self) -> None:
        [pending] = compose(replace(paid(), orders={ORDER: order("pending")})).missing
        assert pending.place == "order"
        [unwritten] = compose(replace(paid(), notifications=[])).missing
        assert unwritten.where == f"joy notification of {ORDER}"
