"""The outbox: a table for events that are committed and not yet published."""

from datetime import UTC, datetime
from typing import Final, Self
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
from sqlalchemy import DateTime, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

from bench.baselines.common import Service
from events.base import Causation, Event
from ops.migrate import quoted

CREATE_TABLE: Final = """
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
    """Tables that Chorus does not have."""


class OutboxRow(Base):
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
        """The row for an event."""
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


async def create_table(service: Service) -> None:
    """Create the table as the owner of the database, unless it exists. Raises LookupError without the owner's URL."""
    admin_url = service.settings.database_admin_url
    if admin_url is None:
        raise LookupError("CHORUS_DATABASE_ADMIN_URL is not set")
    url = urlsplit(service.settings.database_url(service.name))
    owner = urlsplit(admin_url.get_secret_value())._replace(path=url.path)
    connection = await asyncpg.connect(urlunsplit(owner))
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('usual_outbox'))")
            await connection.execute(CREATE_TABLE)
            role = quoted(unquote(url.username or ""))
            await connection.execute(
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON usual_outbox TO {role}"
            )
    finally:
        await connection.close()
