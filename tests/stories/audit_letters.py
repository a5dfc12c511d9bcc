"""The invariant about letters, and the mail that carries them."""

from collections import Counter, defaultdict
from typing import Final
from uuid import UUID

from events.notifications import NotificationFailed, NotificationSent
from events.users import UserRegistered, UserUpdated
from tests.stories.facts import Facts, Findings

LETTERS: Final = {"paid": {"joy"}, "refunded": {"joy", "refund"}, "rejected": {"sorrow"}}
"""The kinds of letters that belong to what billing decided about an order."""


def every_outcome_has_its_letter(facts: Facts) -> Findings:
    """Of the right kind, to an address of the right user, sent once; a letter that no server took has failed."""
    due = {
        (charge["order_id"], kind): charge
        for charge in facts.charges
        for kind in LETTERS.get(charge["status"], ())
    }
    addresses: dict[UUID, set[str]] = defaultdict(set)
    for heard in facts.events:
        if isinstance(heard.event, UserRegistered | UserUpdated):
            addresses[heard.event.user.id].add(heard.event.user.email)
    written = Counter((letter["order_id"], letter["kind"]) for letter in facts.letters)
    yield from (f"order {key[0]} has no letter of {key[1]}" for key in due.keys() - written.keys())
    for letter in facts.letters:
        key = (letter["order_id"], letter["kind"])
        charge = due.get(key)
        if letter["kind"] == "message":
            continue
        if charge is None or written[key] != 1:
            yield f"{written[key]} letters of {key[1]} about order {key[0]}, which is no such case"
        elif (letter["user_id"], letter["amount"]) != (charge["user_id"], charge["amount"]):
            yield f"{letter} does not fit {charge}"
        if letter["address"] not in addresses[letter["user_id"]]:
            yield f"{letter} goes to somebody else"
    yield from _mail(facts)


def _mail(facts: Facts) -> Findings:
    arrived: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for id, recipients, subject in facts.mail:
        arrived[id].append((recipients, subject))
    sent, failed = facts.told_of(NotificationSent), facts.told_of(NotificationFailed)
    copies = 0
    for letter in facts.letters:
        found = arrived.pop(str(letter["id"]), [])
        refused = letter["address"] in facts.refused_for_good
        if (letter["status"], sent[letter["id"]], failed[letter["id"]]) != (
            ("failed", 0, 1) if refused else ("sent", 1, 0)
        ):
            yield f"{letter} has no such end"
        if bool(found) == refused or set(found) - {((letter["address"],), letter["subject"])}:
            yield f"{letter} arrived as {found}"
        copies += max(0, len(found) - 1)
    yield from (f"mail {id} was never written: {found}" for id, found in arrived.items())
    if copies > facts.extra_copies:
        yield f"{copies} extra copies went out, {facts.extra_copies} may"
