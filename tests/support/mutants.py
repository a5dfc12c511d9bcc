"""Broken variants of the bus, to check the checker: each lacks one mechanism, and an audit must notice.

They are put into a process that was forked for a test, before it starts its service. The product has no such switch.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from chassis.database.tables import Statements
from chassis.database.transaction import Transaction
from chassis.messaging import consumer, outbox, relay
from chassis.messaging.consumer import Consumer
from chassis.messaging.publisher import Publication, Publisher

VARIABLE: Final = "TESTS_MUTANT"

NO_VERSION_KEY: Final = (
    "ALTER TABLE transfers DROP CONSTRAINT transfers_account_id_account_version_key"
)
"""Billing's second line of defence where balances are not locked: taken down, to look at the first."""

VERSION_KEY: Final = """
ALTER TABLE transfers
ADD CONSTRAINT transfers_account_id_account_version_key UNIQUE (account_id, account_version)
"""


def no_inbox() -> None:
    """Everything that is delivered is new."""

    async def nothing(tx: Transaction, processed: Sequence[Any]) -> None:
        """Write nothing."""

    vars(consumer)["mark_processed"] = nothing


def ack_first() -> None:
    """The broker may forget a message before anything has been done about it."""
    handle = Consumer._consume

    async def take(self: Consumer[Any], message: Any) -> None:
        await message.ack()
        await handle(self, message)

    Consumer._consume = take  # type: ignore[method-assign]


def unlocked_balance() -> None:
    """Rows are read without being locked."""
    Transaction.lock = Transaction.lock_all = Transaction.load  # type: ignore[method-assign]


def relay_by_last_id() -> None:
    """The relay keeps the last id instead of looking at what is there."""
    last: dict[object, UUID] = {}

    async def take(
        tx: Transaction, limit: int, route: relay.Route = relay.TO_SUBSCRIBERS
    ) -> list[outbox.Row]:
        task = asyncio.current_task()
        to_journal = "INSERT INTO journal_outbox SELECT id FROM taken ON CONFLICT DO NOTHING"
        records = await tx.fetch(
            f"WITH taken AS (DELETE FROM {route.outbox} WHERE id = ANY(ARRAY("
            f"SELECT id FROM {route.outbox} WHERE id > $1 ORDER BY id LIMIT $2)) RETURNING id)"
            f"{f', published AS ({to_journal})' if route is relay.TO_SUBSCRIBERS else ''}"
            f" SELECT {', '.join(outbox.Row._fields)} FROM taken JOIN event_log USING (id)",
            last.get(task, UUID(int=0)),
            limit,
        )
        rows = sorted(outbox.Row(*record.values()) for record in records)
        if rows:
            last[task] = rows[-1].id
        return rows

    relay.take = take


def no_version_guard() -> None:
    """What comes last is taken for the newest."""
    guarded = Statements.upsert_newer

    def unguarded(self: Statements) -> str:
        statement = guarded(self)
        before, _, after = statement.partition(" WHERE ")
        return before + " RETURNING " + after.partition(" RETURNING ")[2]

    Statements.upsert_newer = unguarded  # type: ignore[method-assign]


def unconfirmed_publish() -> None:
    """What has been handed to a connection counts as published."""
    on_their_way: set[asyncio.Future[None]] = set()

    async def publish(
        self: Publisher, publications: Sequence[Publication]
    ) -> list[BaseException | None]:
        channel = await self._open()
        for publication in publications:
            task = asyncio.ensure_future(self._publish(channel, publication))
            on_their_way.add(task)
            task.add_done_callback(on_their_way.discard)
        return [None] * len(publications)

    Publisher.publish = publish  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    mutation.__name__: mutation
    for mutation in (
        no_inbox, ack_first, unlocked_balance, relay_by_last_id, no_version_guard, unconfirmed_publish,
    )
}  # fmt: skip


def mutate(name: str) -> None:
    """Break this process. Raises KeyError if there is no such mutant."""
    MUTANTS[name]()
