"""Idempotency-Key: the same key and body give the same answer again, whatever happened to the first one.

The key, the request's fingerprint and the answer are rows of the business transaction, unique per user and key: a
second request with the key waits for the first one's COMMIT and then reads its answer.
https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from fastapi import Header
from sqlmodel import Field

from chassis.database.group_commit import Work
from chassis.database.tables import Table, statements
from chassis.database.transaction import Transaction
from chassis.web.problems import KeyReused, Problem

REPLAYED: Final = {"Idempotent-Replayed": "true"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own. The same key and body give the same answer again.",
        examples=["5f2c7c1e-order-1"],
    ),
]

Command = TypeVar("Command")
Result = TypeVar("Result")


class IdempotentAnswer(Table, table=True):
    """An answer that was given, to be given again."""

    __tablename__ = "idempotency_keys"

    user_id: UUID = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: str
    status: int | None = None
    body: str | None = None
    location: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it is sent and stored."""

    status: int
    body: str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IdempotentRequest(Generic[Command]):
    """A command and what makes it the same one: who asked, with which key, for what."""

    command: Command
    path: str
    answer: Callable[[str, Any], "Answer"]
    """How the command's result is told, from the path and the result."""
    user_id: UUID | None = None
    key: str | None = None
    fingerprint: str = ""

    def identity(self) -> tuple[UUID, str] | None:
        """What one answer belongs to: the user and his key; None where no key was sent."""
        return (self.user_id, self.key) if self.user_id and self.key else None


def idempotent(use_case: Work[Command, Result]) -> Work[IdempotentRequest[Command], Answer]:
    """A use case that answers each key once, each command in its own way."""

    async def work(tx: Transaction, asked: Sequence[IdempotentRequest[Command]]) -> list[Answer]:
        first = _first_with_each_key(asked)
        stored = await _claim(tx, list(first.values()))
        fresh = [
            one
            for one in asked
            if one.identity() is None
            or (first[one.identity()] is one and one.identity() not in stored)
        ]
        results = await use_case(tx, [one.command for one in fresh])
        given = {
            id(one): one.answer(one.path, result)
            for one, result in zip(fresh, results, strict=True)
        }
        rows = {one.identity(): _row(one, given[id(one)], tx) for one in fresh if one.identity()}
        await tx.update(list(rows.values()), "status", "body", "location")
        return [given.get(id(one)) or _again(one, stored | rows) for one in asked]

    return work


def _first_with_each_key(
    asked: Sequence[IdempotentRequest[Any]],
) -> dict[Any, IdempotentRequest[Any]]:
    first: dict[Any, IdempotentRequest[Any]] = {}
    for one in asked:
        if one.identity() is not None:
            first.setdefault(one.identity(), one)
    return first


async def _claim(
    tx: Transaction, asked: Sequence[IdempotentRequest[Any]]
) -> dict[Any, IdempotentAnswer]:
    """Take the keys; the answers of those that were taken before."""
    if not asked:
        return {}
    claims = [_row(one, None, tx) for one in asked]
    new = await tx.insert_new(claims)
    taken = [one.identity() for one in asked if one.identity() not in new]
    if not taken:
        return {}
    records = await tx.fetch(
        statements(IdempotentAnswer).where(
            "(user_id, key) IN (SELECT * FROM unnest($1::uuid[], $2::varchar[])) AND user_id = ANY($1)"
        ),
        *map(list, zip(*(identity for identity in taken if identity), strict=True)),
    )
    return {(r["user_id"], r["key"]): IdempotentAnswer(**dict(r)) for r in records}


def _row(one: IdempotentRequest[Any], given: Answer | None, tx: Transaction) -> IdempotentAnswer:
    assert one.user_id is not None
    assert one.key is not None
    return IdempotentAnswer(
        user_id=one.user_id,
        key=one.key,
        fingerprint=one.fingerprint,
        status=given.status if given else None,
        body=given.body if given else None,
        location=given.headers.get("Location") if given else None,
        created_at=tx.now,
    )


def _again(one: IdempotentRequest[Any], stored: Mapping[Any, IdempotentAnswer]) -> Answer:
    row = stored[one.identity()]
    if row.fingerprint != one.fingerprint or row.status is None or row.body is None:
        return problem_answer(KeyReused("Send another key with another request."), one.path)
    media_type = "application/json" if row.status < 400 else "application/problem+json"
    headers = REPLAYED | ({"Location": row.location} if row.location else {})
    return Answer(row.status, row.body, media_type, headers)


def problem_answer(problem: Problem, path: str) -> Answer:
    """A problem as an answer."""
    document = json.dumps(problem.document(path))
    return Answer(problem.status, document, "application/problem+json", problem.headers)
