"""The relay: publishes what is in the outbox.

It polls every 50 ms, and at once after a poll that found rows. It locks up to a hundred rows, publishes one after the
other, awaits the confirm of each, deletes its row, and commits. After a crash some events are published again; the
consumers deduplicate them by the inbox.
"""

import asyncio
from typing import Final

import structlog
from faststream.rabbit import RabbitBroker, RabbitExchange
from sqlalchemy import select
from sqlalchemy.exc import ProgrammingError

from bench.baselines.usual.outbox import OutboxRow
from bench.baselines.usual.session import Sessions

log = structlog.get_logger(__name__)

EXCHANGE: Final = RabbitExchange("usual", declare=False)

POLL_SECONDS: Final = 0.05
LIMIT: Final = 100
CONFIRM_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0


class Relay:
    """Publishes the rows of the outbox in the order of their ids."""

    def __init__(self, sessions: Sessions, broker: RabbitBroker) -> None:
        self._sessions = sessions
        self._broker = broker

    async def run(self) -> None:
        """Poll until cancelled. Retries while the database or the broker is unavailable."""
        while True:
            try:
                moved = await self._move()
            except ProgrammingError:
                raise  # the database rejects the statement: a retry would hide the fault
            except Exception as error:
                log.warning("relay.waiting", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not moved:
                    await asyncio.sleep(POLL_SECONDS)

    async def _move(self) -> int:
        oldest = (
            select(OutboxRow).order_by(OutboxRow.id).limit(LIMIT).with_for_update(skip_locked=True)
        )
        async with self._sessions.begin() as session:
            rows = (await session.scalars(oldest)).all()
            for row in rows:
                await self._publish(row)
                await session.delete(row)
        return len(rows)

    async def _publish(self, row: OutboxRow) -> None:
        headers = {"causation_id": row.causation_id, "traceparent": row.traceparent}
        await self._broker.publish(
            row.body.encode(),
            exchange=EXCHANGE,
            routing_key=row.routing_key,
            timeout=CONFIRM_SECONDS,
            persist=True,
            headers={name: str(value) for name, value in headers.items() if value},
            content_type="application/json",
            message_id=str(row.id),
            message_type=row.type,
            correlation_id=row.correlation_id,
            timestamp=row.occurred_at,
        )
