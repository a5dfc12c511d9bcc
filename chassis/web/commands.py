"""Commands: from an HTTP request to its use case through group commit, once per Idempotency-Key.

The key, the request's fingerprint and the response are a row of the business transaction, unique per user and key. A
second request with the key gets the stored response.
https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, Header, Request, Response
from pydantic import AfterValidator, BaseModel
from sqlmodel import Field

from chassis.database.group_commit import GroupCommitter, OnCommit, Work
from chassis.database.tables import Table, from_record, statements
from chassis.database.transaction import Pool, Transaction
from chassis.web.auth import CurrentUser, User
from chassis.web.context import context_of
from chassis.web.dependencies import provided
from chassis.web.problems import MEDIA_TYPE, KeyReused, Problem, render
from events.base import Causation

REQUEST_TIMEOUT_SECONDS: Final = 5.0
"""How long a request waits for an unavailable database before its response is 503. A connected database that does not
respond is detected after COMMAND_SECONDS of `chassis.database.pool`."""

REPLAYED: Final = {"Idempotent-Replayed": "true"}

_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def _unquoted(key: str | None) -> str | None:
    """A key without the quotes of the draft's syntax (RFC 9651, 3.3.3), which many clients leave out."""
    if key is not None and (quoted := _QUOTED.fullmatch(key)):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
        if not key:
            raise ValueError("must not be empty")
    return key


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your choice, in double quotes or without. The same key and body give the first"
        " response again, whatever has happened since.",
        examples=["5f2c7c1e-order-1"],
    ),
    AfterValidator(_unquoted),
]

Command = TypeVar("Command")
Result = TypeVar("Result")

Key = tuple[UUID, str]
"""The user and the Idempotency-Key that one response belongs to."""


class IdempotencyRecord(Table, table=True):
    """A key that a user has sent, with the response to the request that it identifies."""

    __tablename__ = "idempotency_keys"

    user_id: UUID = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: str
    status: int | None = None
    body: str | None = None
    location: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class IdempotentRequest(Generic[Command]):
    """A command, with what identifies its request and what makes its response."""

    command: Command
    path: str
    view: Callable[[Any], BaseModel]
    """The body for a result that is no refusal."""
    status: int = 200
    location: Callable[[Any], str] | None = None
    key: Key | None = None
    fingerprint: str = ""
    """A digest of method, path and body: the same key with another one is refused."""

    def response(self, result: Any) -> Response:
        """The response to a result: a refusal is rendered as a problem."""
        if isinstance(result, Problem):
            return render(result, self.path)
        headers = {"Location": self.location(result)} if self.location else None
        body = self.view(result).model_dump_json(by_alias=True)
        return Response(body, self.status, headers, "application/json")


UseCase = Work[Any, Any]
Requests = Sequence[IdempotentRequest[Any]]
Committer = GroupCommitter[IdempotentRequest[Any], Response]


async def execute(use_case: UseCase, tx: Transaction, requests: Requests) -> list[Response]:
    """Execute requests, each key once; a repeated request gets the stored response.

    COMMIT fails with asyncpg.UniqueViolationError if another transaction has used a key meanwhile; when the batch is
    executed again, `execute_once` finds its response.
    """
    if any(one.key for one in requests):
        return await execute_once(use_case, tx, requests)
    return await _responses(use_case, tx, requests)


async def execute_once(use_case: UseCase, tx: Transaction, requests: Requests) -> list[Response]:
    """The same, with a look for stored responses in any case."""
    stored = await _stored(tx, [one.key for one in requests if one.key])
    new: dict[Any, int] = {}  # the place of the first request with each key, and of each without
    for place, one in enumerate(requests):
        if one.key not in stored:
            new.setdefault(one.key or place, place)
    fresh = [requests[place] for place in new.values()]
    responses = await _responses(use_case, tx, fresh)
    records = {
        one.key: _record(one, one.key, response, tx.now)
        for one, response in zip(fresh, responses, strict=True)
        if one.key
    }
    # In order of key: two transactions with the same keys wait for each other and never deadlock.
    await tx.insert([records[key] for key in sorted(records)])
    sent = dict(zip(new.values(), responses, strict=True))
    known: dict[Any, IdempotencyRecord] = stored | records
    return [sent.get(place) or _replayed(one, known[one.key]) for place, one in enumerate(requests)]


async def _responses(use_case: UseCase, tx: Transaction, requests: Requests) -> list[Response]:
    results = await use_case(tx, [one.command for one in requests])
    return [one.response(result) for one, result in zip(requests, results, strict=True)]


async def _stored(tx: Transaction, keys: Sequence[Key]) -> dict[Key, IdempotencyRecord]:
    if not keys:
        return {}
    records = await tx.fetch(
        statements(IdempotencyRecord).where(
            "(user_id, key) IN (SELECT * FROM unnest($1::uuid[], $2::varchar[])) AND user_id = ANY($1)"
        ),
        [user_id for user_id, _ in keys],
        [key for _, key in keys],
    )
    return {(r["user_id"], r["key"]): from_record(IdempotencyRecord, r) for r in records}


def _record(
    one: IdempotentRequest[Any], key: Key, response: Response, now: datetime
) -> IdempotencyRecord:
    return IdempotencyRecord(
        user_id=key[0],
        key=key[1],
        fingerprint=one.fingerprint,
        status=response.status_code,
        body=bytes(response.body).decode(),
        location=response.headers.get("Location"),
        created_at=now,
    )


def _replayed(one: IdempotentRequest[Any], record: IdempotencyRecord) -> Response:
    if record.fingerprint != one.fingerprint:
        return render(KeyReused("Send another key with another request."), one.path)
    assert record.status is not None
    media_type = "application/json" if record.status < 400 else MEDIA_TYPE
    headers = REPLAYED | ({"Location": record.location} if record.location else {})
    return Response(record.body, record.status, headers, media_type)


class Committers(dict[UseCase, Committer]):
    """The group committers behind a service's HTTP API, by use case; each is made on first use."""

    def __init__(self, service: str, pool: Pool, on_commit: OnCommit) -> None:
        super().__init__()
        self._service = service
        self._pool = pool
        self._on_commit = on_commit

    def __missing__(self, use_case: UseCase) -> Committer:
        """Make the group committer of a use case."""
        self[use_case] = GroupCommitter(
            self._pool,
            partial(execute, use_case),
            fallback=partial(execute_once, use_case),
            name=f"{self._service}.{getattr(use_case, '__name__', '')}",
            on_commit=self._on_commit,
            timeout=REQUEST_TIMEOUT_SECONDS,
        )
        return self[use_case]

    async def drain(self) -> None:
        """Wait until every submitted command is done."""
        await asyncio.gather(*(committer.drain() for committer in self.values()))


@dataclass(frozen=True, slots=True)
class Commands:
    """Submits the commands of one request."""

    request: Request
    committers: Committers
    user: User | None = None
    key: str | None = None

    @property
    def cause(self) -> Causation:
        """The causation of the events that the commands lead to."""
        return context_of(self.request).causation

    async def execute(
        self,
        use_case: Work[Command, Result | Problem],
        command: Command,
        view: Callable[[Result], BaseModel],
        *,
        body: BaseModel | None = None,
        status: int = 200,
        location: Callable[[Result], str] | None = None,
    ) -> Response:
        """Execute a command; returns its response once its transaction is durable.

        `body` is the request's body as it was validated: with other values an Idempotency-Key is refused. Without it
        the JSON that was sent is compared.
        """
        key = (self.user.id, self.key) if self.user and self.key else None
        fingerprint = await _fingerprint(self.request, body) if key else ""
        path = self.request.scope["path"]
        request = IdempotentRequest(command, path, view, status, location, key, fingerprint)
        return await self.committers[use_case].submit(request)


async def _fingerprint(request: Request, body: BaseModel | None) -> str:
    """A digest of method, path and the body's values. How they are written makes no difference: `10.0` is `"10.00"`."""
    if body is not None:
        values = body.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    else:
        values = await request.json() if await request.body() else {}
    canonical = json.dumps(values, sort_keys=True, default=str) if values else ""
    text = f"{request.method} {request.scope['path']} {canonical}"
    return hashlib.sha256(text.encode()).hexdigest()


def located(status: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` entry of a route whose response has a `Location` header, for OpenAPI."""
    return {status: {"headers": {"Location": {"$ref": "#/components/headers/Location"}}}}


CommittersDep = Annotated[Committers, Depends(provided(Committers))]


async def _user_commands(
    request: Request, committers: CommittersDep, user: CurrentUser, key: IdempotencyKey = None
) -> Commands:
    return Commands(request, committers, user, key)


async def _keyless_commands(request: Request, committers: CommittersDep) -> Commands:
    return Commands(request, committers)


UserCommands = Annotated[Commands, Depends(_user_commands)]
"""Commands of a signed-in user, with Idempotency-Key."""

KeylessCommands = Annotated[Commands, Depends(_keyless_commands)]
"""Commands without Idempotency-Key. The route itself decides who may send them."""
