"""SQLAlchemy's AsyncSession over Chorus' tables: one session is one transaction.

The session tracks rows; the rules are on Chorus' models, which are independent of it. `find` makes a model from a row,
`save` copies it back, and SQLAlchemy detects what has changed.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from fastapi import Response
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as insert_into
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from bench.baselines.common import CONNECTIONS
from bench.baselines.parts.idempotency import Key, StoredKey, StoredResponse
from bench.baselines.usual.outbox import OutboxRow
from chassis.database.pool import SERVER_SETTINGS
from chassis.database.tables import T, Table
from chassis.messaging.consumer import InboxRow
from chassis.runtime.settings import settings
from chassis.web.commands import IdempotencyRecord
from chassis.web.problems import KeyReused
from events.base import Causation, Event


class Row(DeclarativeBase):
    """A row that a session tracks."""


@cache
def row_of(model: type[Table]) -> Any:
    """The row class of a table."""
    table = model.__table__  # type: ignore[attr-defined]
    return type(f"{model.__name__}Row", (Row,), {"__table__": table})


class Session(AsyncSession):
    """A unit of work."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._found: dict[int, tuple[Table, Any]] = {}

    async def find(self, model: type[T], *, lock: bool = False, **where: Any) -> T | None:
        """The one row with these values, if there is one."""
        statement = select(row_of(model)).filter_by(**where)
        if lock:
            statement = statement.with_for_update(key_share=True)
        row = (await self.scalars(statement)).one_or_none()
        if row is None:
            return None
        found = model(**{name: getattr(row, name) for name in model.model_fields})
        self._found[id(found)] = found, row
        return found

    def insert(self, *models: Table) -> None:
        """Insert rows with the next flush."""
        self.add_all(row_of(type(model))(**_values(model)) for model in models)

    async def insert_if_new(self, model: Table) -> bool:
        """Insert a row unless it exists. Returns whether it is new."""
        statement = (
            insert_into(row_of(type(model))).values(**_values(model)).on_conflict_do_nothing()
        )
        inserted: int = (await self.execute(statement)).rowcount  # type: ignore[attr-defined]
        return inserted == 1

    def save(self, model: Table) -> None:
        """Copy a model back to the row that it was found in."""
        _, row = self._found[id(model)]
        for name, value in _values(model).items():
            setattr(row, name, value)

    async def is_duplicate(self, message_id: str) -> bool:
        """Mark a message as processed in this transaction. Returns whether it was processed before."""
        row = InboxRow(id=UUID(message_id), source="", members=1, received_at=datetime.now(UTC))
        return not await self.insert_if_new(row)

    def publish(self, event: Event, cause: Causation) -> None:
        """Write an event to the outbox."""
        self.add(OutboxRow.of(event, cause))


def _values(model: Table) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}


Sessions = async_sessionmaker[Session]


def sessions_of(service: str) -> Sessions:
    """The session factory of a service. It connects when the first session is used."""
    url = settings().database_url(service).replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=0,
        connect_args={
            "server_settings": {**SERVER_SETTINGS, "application_name": f"usual-{service}"}
        },
    )
    return async_sessionmaker(engine, class_=Session, expire_on_commit=False)


async def respond_once(
    sessions: Sessions, key: Key | None, work: Callable[[Session], Awaitable[StoredResponse]]
) -> Response:
    """Do `work` in one transaction, once for each Idempotency-Key."""
    async with sessions.begin() as session:
        if key is None:
            return (await work(session)).response()
        claim = IdempotencyRecord(
            user_id=key.user_id,
            key=key.key,
            fingerprint=key.fingerprint,
            created_at=datetime.now(UTC),
        )
        is_new = await session.insert_if_new(claim)
        stored = await session.find(IdempotencyRecord, user_id=key.user_id, key=key.key)
        assert stored is not None
        if is_new:
            answer = await work(session)
            stored.status, stored.body = answer.status, answer.body
            stored.location = answer.headers.get("Location")
            session.save(stored)
            return answer.response()
        again = StoredKey(stored.status, stored.body, stored.location).answer()
        if stored.fingerprint != key.fingerprint or again is None:
            raise KeyReused("Send another key with another request.")
        return again.response()
