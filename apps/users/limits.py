"""Limits on attempts to register, to sign in and to take an e-mail address, shared by all replicas.

An attempt is charged to budgets before it is made, and given back if it succeeds: what counts are failures, such as a
wrong password or an address that is taken. Budgets refill evenly over an hour (the generic cell rate algorithm, one
row each). Nobody can lock an owner out from elsewhere: an address that has signed in to an account lately is charged
for its own failures on that account alone (docs/adr/0040).
"""

import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, ClassVar, Final, Literal, Self

from fastapi import Depends, Request, Response
from sqlmodel import Field

from chassis.database.group_commit import GroupCommitter
from chassis.database.tables import Table
from chassis.database.transaction import Pool, Transaction
from chassis.runtime.settings import Settings
from chassis.web.dependencies import provided
from chassis.web.problems import Problem, Unavailable

WINDOW: Final = timedelta(hours=1)
"""The time in which an empty budget refills."""

FAMILIAR: Final = timedelta(days=90)
"""How long an address is familiar to an account after a success."""

BEGINNING: Final = datetime.fromisoformat("2000-01-01T00:00:00+00:00")

PURGE_BUDGETS: Final = """
DELETE FROM budgets WHERE key = ANY(ARRAY(
    SELECT key FROM budgets WHERE charged_until < $1 LIMIT 100 FOR UPDATE SKIP LOCKED))
"""


class TooManyAttempts(Problem, status=429, reason="too_many_attempts"):
    """There were too many attempts; try again later."""

    @classmethod
    def after(cls, wait: timedelta, limit: int) -> Self:
        """The refusal, with the time until the next attempt is allowed, and the limit in an hour."""
        seconds = max(1, math.ceil(wait.total_seconds()))
        window = round(WINDOW.total_seconds())
        headers = {
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"attempts";q={limit};w={window}',
            "RateLimit": f'"attempts";r=0;t={seconds}',
        }
        return cls(f"Try again in {seconds} s.", headers=headers)

    @classmethod
    def example(cls) -> Self:
        """An instance for the documentation."""
        return cls.after(timedelta(seconds=20), 30)


class Budget(Table, table=True):
    """What was charged to a key. The key is a digest: the table holds neither addresses nor accounts."""

    __tablename__ = "budgets"
    on_conflict: ClassVar[str] = "ON CONFLICT (key) DO UPDATE SET key = excluded.key"
    """An insert locks an existing row: the purge cannot remove it before it is read."""

    key: bytes = Field(primary_key=True)
    charged_until: datetime
    """When all that was charged is refilled; of a familiar address, until when it is."""

    def wait(self, limit: int, now: datetime) -> timedelta:
        """How long until one attempt of `limit` in WINDOW fits; zero or less if it does now."""
        return max(self.charged_until, now) + WINDOW / limit - now - WINDOW

    def charge(self, limit: int, now: datetime, attempts: int = 1) -> None:
        """Charge attempts, or with -1 give one back."""
        self.charged_until = max(self.charged_until, now) + attempts * WINDOW / limit


Budgets = tuple[tuple[bytes, int], ...]
"""Keys of budgets, with the attempts that fit into an hour."""


@dataclass(frozen=True, slots=True)
class Charge:
    """Charge one attempt to budgets, or give it back."""

    budgets: Budgets
    of_strangers: Budgets
    """Budgets that an address does not need if it is familiar to the account."""
    familiar: bytes
    attempts: Literal[1, -1] = 1
    succeeded: bool = False
    """Whether the address becomes familiar."""

    def rows(self) -> set[bytes]:
        """The keys of the rows that it needs."""
        return {self.familiar, *(key for key, _ in self.budgets + self.of_strangers)}


async def charge_attempts(
    tx: Transaction, charges: Sequence[Charge]
) -> list[Budgets | TooManyAttempts]:
    """Charge attempts in the order of arrival; returns what each was charged to. A refused one is not charged."""
    keys = sorted({key for charge in charges for key in charge.rows()})
    await tx.insert([Budget(key=key, charged_until=BEGINNING) for key in keys])
    rows = await tx.lock(Budget, keys)
    results: list[Budgets | TooManyAttempts] = []
    for one in charges:
        familiar = rows[one.familiar].charged_until > tx.now
        needed = one.budgets if familiar else one.budgets + one.of_strangers
        wait, limit = max((rows[key].wait(limit, tx.now), limit) for key, limit in needed)
        if one.attempts > 0 and wait > timedelta(0):
            results.append(TooManyAttempts.after(wait, limit))
            continue
        for key, limit in needed:
            rows[key].charge(limit, tx.now, one.attempts)
        if one.succeeded:
            rows[one.familiar].charged_until = tx.now + FAMILIAR
        results.append(needed)
    await tx.update(list(rows.values()), "charged_until")
    await tx.execute(PURGE_BUDGETS, tx.now)
    return results


def network_of(host: str) -> str:
    """What counts as one client: an IPv4 address, or the 64 bits of an IPv6 network that one customer has."""
    try:
        address = ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network((int(address), 64), strict=False))
    return str(address)


class AttemptLimit:
    """Charges attempts in the service's database."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.settings = settings
        self._committer: GroupCommitter[Charge, Budgets | TooManyAttempts] = GroupCommitter(
            pool, charge_attempts, name="users.charge_attempts", on_commit=()
        )

    async def charge(self, charge: Charge) -> Budgets:
        """Charge an attempt or give it back; returns what it was charged to. Raises TooManyAttempts."""
        result = await self._committer.submit(charge)
        if isinstance(result, TooManyAttempts):
            raise result
        return result


@dataclass(slots=True)
class Attempt:
    """An attempt that is being made."""

    client: str
    """Whose passwords wait behind each other: those of the address, or of its familiar account."""
    failed: bool = False

    def judge(self, response: Response) -> Response:
        """Mark it as failed unless the response is a success."""
        self.failed = response.status_code >= 400
        return response


class Attempts:
    """The attempts of one request."""

    def __init__(
        self, request: Request, limit: Annotated[AttemptLimit, Depends(provided(AttemptLimit))]
    ) -> None:
        self._limit = limit
        self._address = network_of(request.client.host if request.client else "")

    @asynccontextmanager
    async def attempt(self, what: str, account: str) -> AsyncIterator[Attempt]:
        """Charge an attempt on an account. It stays charged if it is judged as failed, or ends with a refusal.

        Raises TooManyAttempts.
        """
        limits, address = self._limit.settings, self._address
        familiar = _key("familiar", address, account)
        own = ((_key(what, address, account), limits.failures_per_client_and_account),)
        others: Budgets = ((_key("client", address), limits.failures_per_client),)
        if what in ("login", "password"):
            others += ((_key("account", account), limits.failures_per_account),)
        charged = await self._limit.charge(Charge(own, others, familiar))
        attempt = Attempt(address if len(charged) > 1 else f"{address} {account}")
        try:
            yield attempt
        except Unavailable:
            await self._limit.charge(Charge(charged, (), familiar, -1))
            raise
        if not attempt.failed:
            await self._limit.charge(Charge(charged, (), familiar, -1, succeeded=True))

    async def register(self) -> None:
        """Charge a registration, whether or not it succeeds. Raises TooManyAttempts."""
        key = _key("registrations", self._address)
        limit = self._limit.settings.registrations_per_client
        await self._limit.charge(Charge(((key, limit),), (), key))


def _key(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()
