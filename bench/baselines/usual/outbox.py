"""The outbox: a table of its own for events that wait, and the relay that polls it.

Every 50 ms, and at once after a round that has found something, the relay locks up to a hundred rows, publishes one
after the other, awaits the confirm of each, deletes its row, and commits. A crash in between publishes some of them
again; the inbox makes twice into once.
"""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import structlog
from faststream.rabbit import RabbitBroker, RabbitExchange
from sqlalchemy import DateTime, String, select
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

from bench.baselines.common import Service
from events.base import Causation, Event
from ops.migrate import quoted

if TYPE_CHECKING:
    from bench.baselines.usual.session import Sessions

log = structlog.get_logger(__name__)

EXCHANGE: Final = RabbitExchange("usual", declare=False)

POLL_SECONDS: Final = 0.05
LIMIT: Final = 100
CONFIRM_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0

MAKE: Final = """
CREATE TABLE IF NOT EXISTS usual_outbox (
    id uuid PRIMARY KEY,
    routing_key varchar NOT NULL,
    type varchar NOT NULL,
    body varchar NOT NULL,
    occurred_at timestamptz NOT NULL,
    correlation_id varchar NOT NULL,
    causation_id uuid,
    traceparent varchar
)
"""


class Base(DeclarativeBase):
    """The tables that Chorus does not have."""


class Waiting(Base):
    """An event that is committed and not yet published."""

    __tablename__ = "usual_outbox"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    routing_key: Mapped[str] = mapped_column(String)
    type: Mapped[str] = mapped_column(String)
    body: Mapped[str] = mapped_column(String)
    occurred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    correlation_id: Mapped[str] = mapped_column(String)
    causation_id: Mapped[UUID | None]
    traceparent: Mapped[str | None] = mapped_column(String)

    @classmethod
    def of(cls, event: Event, cause: Causation) -> Self:
        """The row of an event."""
        return cls(
            id=uuid7(),
            routing_key=type(event).key,
            type=type(event).__name__,
            body=event.model_dump_json(),
            occurred_at=datetime.now(UTC),
            correlation_id=cause.correlation_id,
            causation_id=cause.causation_id,
            traceparent=cause.traceparent,
        )


async def make_table(service: Service) -> None:
    """Make the table as the owner of the database, if it is not there. Raises LookupError without an owner's URL."""
    admin_url = service.settings.database_admin_url
    if admin_url is None:
        raise LookupError("CHORUS_DATABASE_ADMIN_URL is not set")
    url = urlsplit(service.settings.database_url(service.name))
    owner = urlsplit(admin_url.get_secret_value())._replace(path=url.path)
    connection = await asyncpg.connect(urlunsplit(owner))
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('usual_outbox'))")
            await connection.execute(MAKE)
            role = quoted(unquote(url.username or ""))
            await connection.execute(
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON usual_outbox TO {role}"
            )
    finally:
        await connection.close()


class Relay:
    """Publishes what waits, for as long as it runs."""

    def __init__(self, sessions: "Sessions", broker: RabbitBroker) -> None:
        self._sessions = sessions
        self._broker = broker

    async def run(self) -> None:
        """Poll until cancelled. A database or broker that is away is waited for."""
        while True:
            try:
                moved = await self._move()
            except ProgrammingError:
                raise  # the database is there and says no: waiting would hide it
            except Exception as error:
                log.warning("relay.waiting", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not moved:
                    await asyncio.sleep(POLL_SECONDS)

    async def _move(self) -> int:
        oldest = select(Waiting).order_by(Waiting.id).limit(LIMIT).with_for_update(skip_locked=True)
        async with self._sessions.begin() as session:
            rows = (await session.scalars(oldest)).all()
            for row in rows:
                await self._publish(row)
                await session.delete(row)
        return len(rows)

    async def _publish(self, row: Waiting) -> None:
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
