"""What the invariants speak about: rows of the four databases, and what only some who ask for an audit can tell.

Facts are about everything, or about a few subjects that looked wrong. A fact carries what its own database says of it
in the same moment (a transfer the balance before it, an account the sum of its entries), so few are enough to judge.
Amounts are minor units.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, TypeVar
from uuid import UUID

from events.base import Envelope, Event

Kind = Literal["account", "event", "letter", "order", "transfer", "user"]
"""What a finding may be about, so that it can be looked at again."""

F = TypeVar("F")
K = TypeVar("K", bound=Hashable)


class Subject(NamedTuple):
    """One thing by its id."""

    kind: Kind
    id: UUID


@dataclass(frozen=True, slots=True)
class Account:
    """A wallet, and what the ledger says of it."""

    id: UUID
    balance: int
    version: int
    entries: int
    """The sum of its entries."""
    moved: int
    """Deposits and refunds, less withdrawals and payments."""
    transfers: int
    """How many there are."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A movement, and what its wallet held before it."""

    id: UUID
    kind: str
    debit_account: UUID
    credit_account: UUID
    amount: int
    account_id: UUID
    account_version: int
    balance: int
    order_id: UUID | None
    balance_before: int
    version_before: int
    entries: int
    """The sum of its own entries."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What billing decided, and what the ledger says the wallet held at that point: None if there is no such point."""

    order_id: UUID
    user_id: UUID
    account_id: UUID
    amount: int
    status: str
    reason: str | None
    balance: int
    account_version: int
    created_at: datetime
    refunded_at: datetime | None
    stood: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """An order as its owner knows it."""

    id: UUID
    user_id: UUID
    total: int
    status: str
    reason: str | None
    placed_at: datetime
    settled_at: datetime | None
    refunded_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter, and what notifications knows of its reader and its cause."""

    id: UUID
    user_id: UUID
    order_id: UUID | None
    kind: str
    amount: int | None
    address: str | None
    subject: str | None
    status: str
    created_at: datetime
    correlation_id: str
    known_email: str | None
    known_version: int | None
    """The reader's address and version now. An address that he had before is in no table."""
    causation_id: UUID | None
    received: bool
    """Whether the event that caused it stands in the inbox, or is so old that it need not any more."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as a service knows him."""

    id: UUID
    email: str
    name: str
    locale: str
    version: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the whole ledger, of one moment."""

    wallets: int
    moved: int
    """Deposits and refunds, less withdrawals and payments."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in an outbox."""

    rows: int
    overdue: int
    """Of these, how many have waited longer than what is in flight does."""


@dataclass(slots=True)
class Attempt:
    """One request for an order, and what its answer said. Neither accepted nor refused: nobody knows.

    What is None was not noted. Attempts of a user with the same key are one wish.
    """

    user_id: UUID | None = None
    total: int | None = None
    key: str | None = None
    correlation_id: str | None = None
    order_id: UUID | None = None
    refused: bool = False

    @property
    def open(self) -> bool:
        """Whether nobody knows what became of it."""
        return self.order_id is None and not self.refused


@dataclass(frozen=True)
class History:
    """What clients asked for and were answered. It tells of every order that was placed since the audit's `since`."""

    attempts: Sequence[Attempt] = ()
    retold: Collection[UUID] = ()
    """Ids of events that were told again under new ids, as a test does: heard by all, and no news."""


@dataclass(frozen=True)
class Mail:
    """What a mail server that belongs to the asker has seen."""

    arrived: Sequence[tuple[str, tuple[str, ...], str]]
    """The notification's id, recipients and subject of each copy of a letter that arrived."""
    refused_for_good: Collection[str] = ()
    """Addresses whose letters were refused with 5xx."""
    extra_copies: int = 0
    """How many letters may have gone out twice, because a mailer was killed between sending and recording."""


@dataclass
class Facts:
    """Everything that the invariants judge, taken down piece by piece."""

    now: datetime
    grace: timedelta
    """What is younger than this is in flight, and not judged by what has not happened yet. Zero: all is at rest."""
    accounts: list[Account] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    users: list[User] = field(default_factory=list)
    changed: dict[UUID, datetime] = field(default_factory=dict)
    """When each of the users was changed last."""
    copies: dict[str, list[User]] = field(default_factory=dict)
    """The users as other services know them."""
    keys: dict[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    """Ids and public halves of the signing keys that are valid, by service."""
    totals: Totals = Totals(0, 0)
    outboxes: dict[str, Waiting] = field(default_factory=dict)
    queues: dict[str, int] | None = None
    """Messages by queue; None if the broker was not asked."""
    open_letters: int = 0
    received: dict[UUID, frozenset[str]] = field(default_factory=dict)
    """Who has heard each event."""
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many events each service has heard, and how many of users, orders and payments it can have heard at most."""
    flows: dict[str, UUID] = field(default_factory=dict)
    """Orders by the correlation id of the request that placed them, as their letters tell."""
    accepted: list[Order] = field(default_factory=list)
    """Orders that answers named."""
    strangers: list[Order] = field(default_factory=list)
    """Orders that no attempt of the history names."""
    history: History | None = None
    mail: Mail | None = None
    journal: list[Envelope[Event]] | None = None
    """Everything that was ever published."""

    def in_flight(self, *moments: datetime | None) -> bool:
        """Whether something happened so shortly ago that what follows from it may still be on its way."""
        known = [moment for moment in moments if moment is not None]
        # A clock that is ahead of ours by more than the grace tells nothing.
        return bool(known) and -self.grace <= self.now - max(known) < self.grace


def by(key: str, rows: Iterable[F]) -> dict[UUID, F]:
    """Rows by an id of theirs; the last one stands."""
    return {getattr(row, key): row for row in rows}


def grouped(pairs: Iterable[tuple[K, F]]) -> Mapping[K, list[F]]:
    """Values by key."""
    found: dict[K, list[F]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found


def born(id: UUID) -> datetime | None:
    """When a UUIDv7 was made; None for other ids."""
    if id.version != 7:
        return None
    return datetime.fromtimestamp((id.int >> 80) / 1000, tz=UTC)
