"""A story for people: a tree of causes with the time of each hop, or a mermaid sequence diagram."""

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from rich.text import Text
from rich.tree import Tree

from events.money import CURRENCY, to_text
from ops.console import printable
from ops.trace.facts import Record
from ops.trace.reasons import Missing, clock, why_not_sent
from ops.trace.story import Delivery, Node, Story


def tree(story: Story) -> Tree:
    """The tree of causes, with orders and users above it, and what is missing below."""
    facts = story.facts
    top = Tree(Text("complete" if not story.missing else "not complete", style="bold"))
    for user in facts.users:
        top.add(f"user {user['id']}, registered {_day(user['created_at'])}")
    for id, order in facts.orders.items():
        top.add(_line(_order(order) if order else f"order {id} is unknown to orders"))
    for root in story.roots:
        _add(top, root, story)
    shown = {one for node in story.nodes for one in _notifications(story, node)}
    for number, one in enumerate(facts.notifications):
        if number not in shown:
            _add_notification(top, one, story)
    if story.missing:
        below = top.add(Text("missing", style="bold red"))
        for missing in story.missing:
            below.add(_red(missing))
    return top


def _add(parent: Tree, node: Node, story: Story) -> None:
    event = node.event
    batch = f", with {event.batch - 1} others" if event.batch > 1 else ""
    state = "not published" if node.unpublished else "published"
    label = Text(event.name, style="bold")
    label.append(
        f" {event.id}  {clock(event.committed_at)} committed by {event.service}{batch}, {state}",
        style="not bold",
    )
    branch = parent.add(label)
    for transfer in story.facts.ledger:
        moved = str(transfer["account_id"]), transfer["created_at"]
        if transfer["order_id"] is None and moved == (event.subject, event.committed_at):
            for line in entries(transfer):
                branch.add(line)
    for delivery in node.deliveries:
        _add_delivery(branch, node, delivery, story)


def _add_delivery(parent: Tree, node: Node, delivery: Delivery, story: Story) -> None:
    if delivery.received is None:
        assert delivery.missing is not None
        branch = parent.add(_red(delivery.missing, f"{delivery.service} has not handled it. "))
    else:
        branch = parent.add(_handled(node, delivery))
    if delivery.service == "billing":
        for line in _billed(node, story):
            branch.add(line)
    if delivery.service == "notifications":
        for number in _notifications(story, node):
            _add_notification(branch, story.facts.notifications[number], story)
    for caused in delivery.caused:
        _add(branch, caused, story)


def _handled(node: Node, delivery: Delivery) -> str:
    assert delivery.received is not None
    at, batch = delivery.received
    took = (at - node.event.committed_at).total_seconds() * 1000
    others = f", with {batch - 1} others" if batch > 1 else ""
    return f"{delivery.service}  {clock(at)} handled, {took:+.0f} ms{others}"


def _billed(node: Node, story: Story) -> Iterator[str]:
    """The decision about an order, and the ledger entries that follow from this event."""
    facts, id = story.facts, node.event.subject
    kind = {"OrderPlaced": "payment", "OrderCancelled": "refund"}.get(node.event.name)
    charge = facts.charges.get(UUID(id)) if kind else None
    if charge and kind == "payment":
        reason = f" ({charge['reason']})" if charge["reason"] else ""
        yield (
            f"decision: {'rejected' if charge['status'] == 'rejected' else 'paid'}{reason},"
            f" balance after it {to_text(charge['balance'])}, version {charge['account_version']}"
        )
    for one in facts.ledger:
        if str(one["order_id"]) == id and one["kind"] == kind:
            yield from entries(one)


def entries(transfer: Record) -> Iterator[str]:
    """The two entries of a transaction of the ledger."""
    for side, sign in (("debit_account", "-"), ("credit_account", "+")):
        account = transfer[side]
        owner = "of the user" if account == transfer["account_id"] else "of Chorus"
        amount = f"{sign}{to_text(transfer['amount'])}"
        yield f"ledger {transfer['id']}: {transfer['kind']} {amount} {owner}, account {account}"


def _notifications(story: Story, node: Node) -> list[int]:
    return [
        number
        for number, one in enumerate(story.facts.notifications)
        if one["causation_id"] == node.event.id
    ]


def _add_notification(parent: Tree, one: Record, story: Story) -> None:
    name = f"{one['channel']} of {one['kind']}"
    to = f" to {one['address']}" if one["address"] else ""
    retries = f" after {one['attempts']} refusals" if one["attempts"] else ""
    answer = f": {one['answer']}" if one["answer"] else ""
    if missing := why_not_sent(story.facts, one):
        parent.add(_red(missing, f"{name}{to}, {one['status']}. "))
        return
    at = f"{clock(one['sent_at'])} " if one["sent_at"] else ""
    parent.add(_line(f"{name}{to}  {at}{one['status']}{retries}{answer}"))


def _order(order: Record) -> str:
    reason = f" ({order['reason']})" if order["reason"] else ""
    return (
        f"order {order['id']} is {order['status']}{reason}: {to_text(order['total'])} {CURRENCY}"
        f" of user {order['user_id']}, placed {_day(order['placed_at'])}"
    )


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d} {clock(moment)} UTC"


def _line(text: str) -> Text:
    return Text(printable(text))


def _red(missing: Missing, before: str = "") -> Text:
    return Text(printable(f"{before}{missing}"), style="red")


def mermaid(story: Story) -> str:
    """A mermaid sequence diagram: a solid arrow for what was handled, a cross for what is missing."""
    lines = ["sequenceDiagram", "  actor client"]
    roots = {root.event.id for root in story.roots}
    for node in story.nodes:
        event = node.event
        if event.id in roots and event.causation_id is None:
            lines.append(f"  client->>{event.service}: {clock(event.committed_at)}")
        if not node.deliveries:
            lines.append(f"  Note over {event.service}: {clock(event.committed_at)} {event.name}")
        for to in node.deliveries:
            if to.received is not None:
                took = (to.received.at - event.committed_at).total_seconds() * 1000
                lines.append(f"  {event.service}-){to.service}: {event.name}, {took:+.0f} ms")
            else:
                lines.append(f"  {event.service}--x{to.service}: {event.name}, {to.missing}")
    for one in story.facts.notifications:
        answer = why_not_sent(story.facts, one) or f"{one['status']} {one['answer'] or ''}"
        arrow = "->>" if one["status"] == "sent" else "--x"
        lines.append(f"  notifications{arrow}client: {one['channel']} of {one['kind']}, {answer}")
    return "\n".join(_plain(line) for line in lines) + "\n"


def _plain(line: str) -> str:
    """Without what mermaid reads as the end of a message or as an entity."""
    return printable(line).translate({ord(";"): " ", ord("#"): " "})
