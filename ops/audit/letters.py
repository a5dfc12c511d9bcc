"""The invariant about letters, and the mail that carries them."""

from collections import Counter, defaultdict
from typing import Final
from uuid import UUID

from events.notifications import NotificationFailed, NotificationSent
from events.users import UserRegistered, UserUpdated
from ops.audit.facts import Charge, Facts, Letter, Mail
from ops.audit.findings import Finding, Findings, wrong
from ops.audit.orders import told_of

LETTERS: Final = {"paid": ("joy",), "refunded": ("joy", "refund"), "rejected": ("sorrow",)}
"""The kinds of letters that belong to what billing decided about an order."""


def every_outcome_has_its_letter(facts: Facts) -> Findings:
    """Of the right kind, to an address of the right user, once; a letter that no server took has failed."""
    due = {
        (charge.order_id, kind): charge
        for charge in facts.charges
        for kind in LETTERS.get(charge.status, ())
    }
    written = Counter((letter.order_id, letter.kind) for letter in facts.letters)
    for (id, kind), charge in due.items():
        decided = charge.refunded_at if kind == "refund" else charge.created_at
        if not written[id, kind] and not facts.in_flight(decided):
            yield wrong("order", id, f"has no letter of {kind}")
    addresses = _addresses(facts)
    for letter in facts.letters:
        if letter.order_id is not None:
            key = (letter.order_id, letter.kind)
            yield from _fits(facts, letter, letter.order_id, due.get(key), written[key])
        if letter.address is not None and _goes_astray(letter, addresses):
            yield wrong("letter", letter.id, f"to user {letter.user_id} goes to somebody else")
    if facts.mail is not None:
        yield from _mail(facts, facts.mail)


def _fits(
    facts: Facts, letter: Letter, order_id: UUID, charge: Charge | None, written: int
) -> Findings:
    if written != 1:
        yield wrong("order", order_id, f"has {written} letters of {letter.kind}")
    if charge is None:
        # A letter is written because of what was decided, so what was decided is never younger.
        if not facts.in_flight(letter.created_at):
            yield wrong("order", order_id, f"has a letter of {letter.kind} and is no such case")
    elif (letter.user_id, letter.amount) != (charge.user_id, charge.amount):
        yield wrong(
            "order", order_id, f"has a letter of {letter.kind} about {letter.amount} to another"
        )


def _addresses(facts: Facts) -> dict[UUID, set[str]] | None:
    """Every address that each user has ever had, where the journal is known."""
    if facts.journal is None:
        return None
    found: dict[UUID, set[str]] = defaultdict(set)
    for received in facts.journal:
        if isinstance(received.event, UserRegistered | UserUpdated):
            found[received.event.user.id].add(received.event.user.email)
    return found


def _goes_astray(letter: Letter, addresses: dict[UUID, set[str]] | None) -> bool:
    if addresses is not None:
        return letter.address not in addresses[letter.user_id]
    # An earlier address of a user who has changed something is in no table: that cannot be judged.
    return letter.known_version == 1 and letter.address != letter.known_email


def _mail(facts: Facts, mail: Mail) -> Findings:
    arrived: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for id, recipients, subject in mail.arrived:
        arrived[id].append((recipients, subject))
    sent, failed = told_of(facts, NotificationSent), told_of(facts, NotificationFailed)
    copies = 0
    for letter in facts.letters:
        found = arrived.pop(str(letter.id), [])
        refused = letter.address in mail.refused_for_good
        end = (letter.status, sent[letter.id], failed[letter.id])
        if end != (("failed", 0, 1) if refused else ("sent", 1, 0)):
            yield wrong("letter", letter.id, f"has no such end: {end}")
        if bool(found) == refused or set(found) - {((letter.address,), letter.subject)}:
            yield wrong("letter", letter.id, f"arrived as {found}")
        copies += max(0, len(found) - 1)
    yield from (Finding(f"mail {id} was never written: {found}") for id, found in arrived.items())
    if copies > mail.extra_copies:
        yield Finding(f"{copies} extra copies went out, {mail.extra_copies} may")
