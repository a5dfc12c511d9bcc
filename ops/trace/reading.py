"""Reads what became of an order, a user or a flow, by primary keys and narrow ranges of the event logs.

The logs have no index on subjects or flows, and need none. A table says when its row was changed: this is, to the
microsecond, the time of the event of the same transaction; and ids carry time. So few rows are read, however long
the log is. Only where a process has a wrong clock is a log read as a whole, for events that a table proves.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from apps import SERVICES
from chassis.messaging.outbox import GROUP
from events.base import Event, least_id
from ops.audit.access import SESSIONS
from ops.audit.databases import Databases
from ops.audit.digests import HIGHEST, LOWEST
from ops.subscriptions import SUBSCRIPTIONS
from ops.trace.anchors import Anchor, of_account, of_notifications, of_order, of_transfer, of_user
from ops.trace.facts import Facts, Published, Received, Record

CLOCKS: Final = timedelta(seconds=10)
"""How far the clock of a process, which makes ids, may be from that of its database, which gives times."""

FLOW_WINDOWS: Final = (timedelta(seconds=5), timedelta(minutes=10))
"""How long after the time in its id a flow's first event is looked for."""

EVENTS: Final = "SELECT * FROM published_events($1, $2, $3, $4, $5, $6)"
UNPUBLISHED: Final = "SELECT id, retry_at FROM outbox WHERE id = ANY($1)"
INBOX: Final = "SELECT id, source, members, received_at FROM inbox WHERE id = ANY($1)"

USER: Final = "SELECT id, created_at, updated_at, version FROM users WHERE id = $1"
ORDER: Final = """
SELECT id, user_id, total, currency, status, reason, placed_at, settled_at, refunded_at, version FROM orders
"""
CHARGES: Final = """
SELECT order_id, amount, status, reason, balance, account_version, created_at, refunded_at
FROM charges WHERE order_id = ANY($1)
"""
TRANSFER: Final = """
SELECT id, order_id, kind, amount, debit_account, credit_account, account_id, account_version, balance, created_at
FROM transfers
"""
NOTIFICATION: Final = """
SELECT id, user_id, order_id, kind, channel, address, status, attempts, due_at, answer, created_at, sent_at,
    correlation_id, causation_id
FROM notifications
"""
ACCOUNT: Final = "SELECT id, opened_at FROM accounts WHERE user_id = $1"

UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
WHOLE_UUID: Final = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
MOVES: Final = {"FundsDeposited", "FundsWithdrawn"}
LATER: Final = timedelta(days=1)
ALWAYS: Final = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Reader:
    """Collects the facts of one trace. Raises DatabaseUnavailableError where a database does not answer."""

    def __init__(
        self, databases: Databases, now: datetime, retention: timedelta, limit: int
    ) -> None:
        self._databases = databases
        self._kept_since = now - retention
        self._limit = limit
        self.facts = Facts(now)

    async def find(self, id: str, since: datetime | None) -> bool:
        """Collect everything about an order, a user, an event or a flow. Returns whether anything was found."""
        given = UUID(id) if WHOLE_UUID.fullmatch(id) else None
        if not (given and (await self._order(given) or await self._user(given))):
            if given:
                await self._by_ids([given])
            if not self.facts.events:
                await self._flow(id, since)
            await self._of_events()
        await self._deliveries()
        return bool(self.facts.events or self.facts.orders or self.facts.users)

    async def _user(self, id: UUID) -> bool:
        """A user with their newest orders, deposits, withdrawals and messages."""
        facts, databases = self.facts, self._databases
        facts.users += await databases["users"].rows(USER, id)
        accounts = await databases["billing"].rows(ACCOUNT, id)
        anchors = [of_account(account) for account in accounts]
        anchors += [anchor for user in facts.users for anchor in of_user(user)]
        for account in accounts:
            sql = f"{TRANSFER} WHERE account_id = $1 AND order_id IS NULL ORDER BY account_version DESC LIMIT $2"
            moved = await databases["billing"].rows(sql, account["id"], self._limit)
            facts.ledger += moved
            anchors += [of_transfer(one) for one in moved]
        messages = (
            f"{NOTIFICATION} WHERE user_id = $1 AND order_id IS NULL ORDER BY id DESC LIMIT $2"
        )
        facts.notifications += await databases["notifications"].rows(messages, id, self._limit)
        anchors += of_notifications(facts.notifications)
        await self._collect(anchors)
        newest = f"{ORDER} WHERE user_id = $1 ORDER BY id DESC LIMIT $2"
        orders = await databases["orders"].rows(newest, id, self._limit)
        await self._orders({one["id"]: one for one in orders})
        return bool(facts.users or accounts or orders or facts.notifications)

    async def _order(self, id: UUID) -> bool:
        facts = self.facts
        known = await self._databases["orders"].rows(f"{ORDER} WHERE id = $1", id)
        await self._orders({id: known[0] if known else None})
        if known or id in facts.charges or any(n["order_id"] == id for n in facts.notifications):
            return True
        del facts.orders[id]
        return False

    async def _orders(self, orders: dict[UUID, Record | None]) -> None:
        """Orders, what billing decided about them, and their notifications."""
        facts, databases, ids = self.facts, self._databases, list(orders)
        facts.orders |= orders
        charges = await databases["billing"].rows(CHARGES, ids)
        facts.charges |= {one["order_id"]: one for one in charges}
        sql = f"{TRANSFER} WHERE order_id = ANY($1) AND order_id IS NOT NULL ORDER BY id"
        facts.ledger += await databases["billing"].rows(sql, ids)
        sql = f"{NOTIFICATION} WHERE order_id = ANY($1) AND order_id IS NOT NULL ORDER BY id"
        notifications = await databases["notifications"].rows(sql, ids)
        facts.notifications += notifications
        anchors = of_notifications(notifications)
        for id, order in orders.items():
            anchors += of_order(id, order, facts.charges.get(id))
        await self._collect(anchors)
        for id in {one["user_id"] for one in notifications if one["status"] == "waiting"}:
            if not facts.users:  # what the notification waits for
                facts.users += await databases["users"].rows(USER, id)
                await self._collect([a for user in facts.users for a in of_user(user)])

    async def _flow(self, id: str, since: datetime | None) -> None:
        """The events of a flow: near the time of a UUIDv7 in its name, else in the whole log."""
        found = UUID7.search(id)
        if since is not None or found is None:
            await self._scan(id, since or self._kept_since, None)
            return
        begun = _moment(UUID(found[0])) - CLOCKS
        for window in FLOW_WINDOWS:
            await self._scan(id, begun, begun + CLOCKS + window)
            if self.facts.events:
                return

    async def _scan(self, about: str, since: datetime, until: datetime | None) -> None:
        low = LOWEST if since <= self._kept_since else least_id(since)
        high = least_id(until) if until else HIGHEST
        await asyncio.gather(*(self._read(s, about, None, low, high, *ALWAYS) for s in SERVICES))

    async def _of_events(self) -> None:
        """What the events of a flow are about; of this, only the events of the flow are kept."""
        found = list(self.facts.events.values())
        flows = {event.correlation_id for event in found}
        about = {
            what: sorted({UUID(e.subject) for e in found if e.kind.subject_path == f"{what}.id"})
            for what in ("order", "user")
        }
        for id in about["order"][: self._limit]:
            await self._order(id)
        for id in about["user"][: self._limit]:
            self.facts.users += await self._databases["users"].rows(USER, id)
            accounts = await self._databases["billing"].rows(ACCOUNT, id)
            await self._collect([of_account(account) for account in accounts])
        for event in found:
            if event.name in MOVES:
                sql = f"{TRANSFER} WHERE account_id = $1 AND created_at = $2"
                self.facts.ledger += await self._databases["billing"].rows(
                    sql, UUID(event.subject), event.committed_at
                )
        events = self.facts.events.items()
        self.facts.events = {id: event for id, event in events if event.correlation_id in flows}

    async def _collect(self, anchors: Sequence[Anchor]) -> None:
        """Read the events that tables prove, with those that caused them."""
        await asyncio.gather(*(self._read_anchor(one) for one in anchors if not one.later))
        await self._causes()
        for anchor in anchors:  # by now most of these are known, as the cause of another
            if anchor.later and not self._known(anchor):
                await self._read_anchor(anchor)
        await self._causes()

    def _known(self, anchor: Anchor) -> bool:
        about, types = str(anchor.subject), {kind.__name__ for kind in anchor.types}
        return any(e.subject == about and e.name in types for e in self.facts.events.values())

    async def _read_anchor(self, anchor: Anchor) -> None:
        if anchor.at is None or anchor.at < self._kept_since:
            return  # the log does not go back so far
        at, until = anchor.at, self.facts.now + LATER if anchor.later else anchor.at
        service, keys = anchor.types[0].exchange, [kind.key for kind in anchor.types]
        near = least_id(at - CLOCKS), least_id(until + CLOCKS)
        for span in (near, (LOWEST, HIGHEST)):
            if await self._read(service, str(anchor.subject), keys, *span, at, until):
                return
        kinds = " or ".join(kind.__name__ for kind in anchor.types)
        self.facts.absent.append((kinds, str(anchor.subject), at))

    async def _causes(self) -> None:
        """Read causes, and theirs, by their ids."""
        tried: set[UUID] = set()
        while missing := {
            e.causation_id for e in self.facts.events.values() if e.causation_id
        } - tried - self.facts.events.keys():  # fmt: skip
            tried |= missing
            await self._by_ids(missing)

    async def _by_ids(self, ids: Iterable[UUID]) -> None:
        await asyncio.gather(
            *(
                self._read(s, str(id), None, group, UUID(int=group.int + 1), *ALWAYS)
                for id in ids
                for group in [_group(id)]
                for s in SERVICES
            )
        )

    async def _read(
        self,
        service: str,
        about: str,
        keys: Sequence[str] | None,
        low: UUID,
        high: UUID,
        since: datetime,
        until: datetime,
    ) -> bool:
        """Read events of a log. Those of another service's exchange are forged: nobody has received them."""
        records = await self._databases[service].rows(EVENTS, about, keys, low, high, since, until)
        known = {kind.__name__ for kind in Event.by_key.values() if kind.exchange == service}
        found = [Published(*record.values()) for record in records if record["type"] in known]
        self.facts.events |= {event.id: event for event in found}
        return bool(found)

    async def _deliveries(self) -> None:
        """Outboxes first, then inboxes: an event that moves on meanwhile is seen at least once."""
        events = list(self.facts.events.values())
        for service in SERVICES:
            rows = [e.row for e in events if e.service == service]
            found = await self._databases[service].rows(UNPUBLISHED, rows)
            self.facts.outbox |= {one["id"]: one["retry_at"] for one in found}
        for service, kinds in SUBSCRIPTIONS.items():
            expected = [event for event in events if event.kind in kinds]
            groups = {_group(event.id) for event in expected}
            found = await self._databases[service].rows(INBOX, list(groups))
            known = {(one["id"], one["source"]): one for one in found}
            for event in expected:
                row = known.get((_group(event.id), event.service))
                if row is not None and row["members"] >> event.id.int % GROUP & 1:
                    batch = (row["members"] % 2**64).bit_count()
                    self.facts.received[service, event.id] = Received(row["received_at"], batch)
        self.facts.sessions = {
            service: await self._databases[service].value(SESSIONS) for service in SERVICES
        }


def _group(id: UUID) -> UUID:
    return UUID(int=id.int // GROUP * GROUP)


def _moment(id: UUID) -> datetime:
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)
