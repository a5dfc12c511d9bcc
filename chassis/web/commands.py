"""Commands: from an HTTP request to its use case through group commit, once per Idempotency-Key.

The key, the request's fingerprint and the response are rows of the business transaction, unique per user and key. A
second request with the key waits for the first one's COMMIT and gets its stored response.
https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Self, TypeVar
from uuid import UUID

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from sqlmodel import Field

from chassis.database.group_commit import GroupCommitter, OnCommit, Work
from chassis.database.tables import Table, statements
from chassis.database.transaction import Pool, Transaction
from chassis.web.auth import CurrentUser, User
from chassis.web.context import causation_of
from chassis.web.dependencies import provided
from chassis.web.problems import MEDIA_TYPE, KeyReused, Problem

REQUEST_TIMEOUT_SECONDS: Final = 5.0
"""How long a request waits for an unavailable database before its response is 503. A connected database that does not
respond is detected after COMMAND_SECONDS of `chassis.database.pool`."""

REPLAYED: Final = {"Idempotent-Replayed": "true"}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your choice. The same key and body give the same response again.",
        examples=["5f2c7c1e-order-1"],
    ),
]

Command = TypeVar("Command")
Result = TypeVar("Result")


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
class StoredResponse:
    """A response in the form in which it is stored and sent."""

    status: int
    body: str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_problem(cls, problem: Problem, path: str) -> Self:
        """The response that a refusal is rendered to."""
        return cls(problem.status, json.dumps(problem.document(path)), MEDIA_TYPE, problem.headers)

    def response(self) -> Response:
        """The HTTP response."""
        headers = dict(self.headers)
        return Response(self.body, self.status, headers=headers, media_type=self.media_type)


@dataclass(frozen=True, slots=True)
class IdempotentRequest(Generic[Command]):
    """A command with what identifies the request: user, key and fingerprint (method, path and body)."""

    command: Command
    path: str
    render: Callable[[str, Any], StoredResponse]
    """Makes the response from the path and the command's result."""
    user_id: UUID | None = None
    key: str | None = None
    fingerprint: str = ""

    def identity(self) -> tuple[UUID, str] | None:
        """The user and the key that one response belongs to; None where no key was sent."""
        return (self.user_id, self.key) if self.user_id and self.key else None


def idempotent(
    use_case: Work[Command, Result],
) -> Work[IdempotentRequest[Command], StoredResponse]:
    """The use case, executed once for each key; a repeated request gets the stored response."""

    async def work(
        tx: Transaction, requests: Sequence[IdempotentRequest[Command]]
    ) -> list[StoredResponse]:
        first = _first_of_each_key(requests)
        stored = await _claim(tx, list(first.values()))
        fresh = [
            one
            for one in requests
            if one.identity() is None
            or (first[one.identity()] is one and one.identity() not in stored)
        ]
        results = await use_case(tx, [one.command for one in fresh])
        responses = {
            id(one): one.render(one.path, result)
            for one, result in zip(fresh, results, strict=True)
        }
        records = {
            one.identity(): _record(one, responses[id(one)], tx) for one in fresh if one.identity()
        }
        await tx.update(list(records.values()), "status", "body", "location")
        return [responses.get(id(one)) or _replayed(one, stored | records) for one in requests]

    return work


def _first_of_each_key(
    requests: Sequence[IdempotentRequest[Any]],
) -> dict[Any, IdempotentRequest[Any]]:
    first: dict[Any, IdempotentRequest[Any]] = {}
    for one in requests:
        if one.identity() is not None:
            first.setdefault(one.identity(), one)
    return first


async def _claim(
    tx: Transaction, requests: Sequence[IdempotentRequest[Any]]
) -> dict[Any, IdempotencyRecord]:
    """Insert the keys; returns the records of those that existed."""
    if not requests:
        return {}
    new = await tx.insert_new([_record(one, None, tx) for one in requests])
    known = [one.identity() for one in requests if one.identity() not in new]
    if not known:
        return {}
    records = await tx.fetch(
        statements(IdempotencyRecord).where(
            "(user_id, key) IN (SELECT * FROM unnest($1::uuid[], $2::varchar[])) AND user_id = ANY($1)"
        ),
        *map(list, zip(*(identity for identity in known if identity), strict=True)),
    )
    return {(r["user_id"], r["key"]): IdempotencyRecord(**dict(r)) for r in records}


def _record(
    one: IdempotentRequest[Any], response: StoredResponse | None, tx: Transaction
) -> IdempotencyRecord:
    assert one.user_id is not None
    assert one.key is not None
    return IdempotencyRecord(
        user_id=one.user_id,
        key=one.key,
        fingerprint=one.fingerprint,
        status=response.status if response else None,
        body=response.body if response else None,
        location=response.headers.get("Location") if response else None,
        created_at=tx.now,
    )


def _replayed(
    one: IdempotentRequest[Any], stored: Mapping[Any, IdempotencyRecord]
) -> StoredResponse:
    record = stored[one.identity()]
    if record.fingerprint != one.fingerprint or record.status is None or record.body is None:
        problem = KeyReused("Send another key with another request.")
        return StoredResponse.of_problem(problem, one.path)
    media_type = "application/json" if record.status < 400 else MEDIA_TYPE
    headers = REPLAYED | ({"Location": record.location} if record.location else {})
    return StoredResponse(record.status, record.body, media_type, headers)


class Committers:
    """The group committers behind a service's HTTP API, one for each use case."""

    def __init__(self, service: str, pool: Pool, on_commit: OnCommit) -> None:
        self._service = service
        self._pool = pool
        self._on_commit = on_commit
        self._made: dict[Any, GroupCommitter[IdempotentRequest[Any], StoredResponse]] = {}

    def of(
        self, use_case: Work[Command, Any]
    ) -> GroupCommitter[IdempotentRequest[Command], StoredResponse]:
        """The group committer of a use case; created on first use."""
        if use_case not in self._made:
            self._made[use_case] = GroupCommitter(
                self._pool,
                idempotent(use_case),
                name=f"{self._service}.{getattr(use_case, '__name__', '')}",
                on_commit=self._on_commit,
                timeout=REQUEST_TIMEOUT_SECONDS,
            )
        return self._made[use_case]

    async def drain(self) -> None:
        """Wait until every submitted command is done."""
        await asyncio.gather(*(committer.drain() for committer in self._made.values()))


class Commands:
    """Submits the commands of one request. `cause` is the causation of the events that they lead to."""

    def __init__(
        self,
        request: Request,
        committers: Committers,
        user: User | None = None,
        key: str | None = None,
    ) -> None:
        self.cause = causation_of(request)
        self._request = request
        self._committers = committers
        self._user = user
        self._key = key

    async def execute(
        self,
        use_case: Work[Command, Result | Problem],
        command: Command,
        view: Callable[[Result], BaseModel],
        *,
        status: int = 200,
        location: Callable[[Result], str] | None = None,
    ) -> StoredResponse:
        """Execute a command; returns once its transaction is durable."""
        request = IdempotentRequest(
            command,
            self._request.scope["path"],
            rendering(view, status, location),
            self._user.id if self._user else None,
            self._key,
            await _fingerprint(self._request) if self._key and self._user else "",
        )
        return await self._committers.of(use_case).submit(request)


def rendering(
    view: Callable[[Any], BaseModel], status: int, location: Callable[[Any], str] | None
) -> Callable[[str, Any], StoredResponse]:
    """The function that makes a response from a result: a value through its view, a refusal as a problem."""

    def render(path: str, result: Any) -> StoredResponse:
        if isinstance(result, Problem):
            return StoredResponse.of_problem(result, path)
        headers = {"Location": location(result)} if location else {}
        body = view(result).model_dump_json(by_alias=True)
        return StoredResponse(status, body, headers=headers)

    return render


async def _fingerprint(request: Request) -> str:
    """A digest of method, path and body; the body's white space and order of fields make no difference."""
    body = await request.body()
    canonical = json.dumps(await request.json(), sort_keys=True, default=str) if body else ""
    text = f"{request.method} {request.scope['path']} {canonical}"
    return hashlib.sha256(text.encode()).hexdigest()


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
