"""Idempotent requests: the same key and body run once and get the stored response, in one batch or several."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Self
from uuid import UUID

import pytest
from fastapi import Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from chassis.database.transaction import Transaction
from chassis.web.commands import IdempotencyRecord, IdempotentRequest, execute, execute_once
from chassis.web.problems import NotFound, Problem
from tests.support.memory import DuplicateError, Memory, at_once

ADA, BOB = UUID(int=1), UUID(int=2)


class CountView(BaseModel):
    count: int


class Answer(NamedTuple):
    """What a client sees of a response."""

    status: int
    body: bytes
    headers: dict[str, str]

    @classmethod
    def of(cls, response: Response) -> Self:
        return cls(response.status_code, bytes(response.body), dict(response.headers))


class Keys:
    """Executes the SQL of `execute_once`: the stored responses of existing keys."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    async def fetch(self, sql: str, users: list[UUID], keys: list[str]) -> list[dict[str, Any]]:
        assert "FROM idempotency_keys WHERE (user_id, key) IN" in sql
        rows = self.memory.tables.get(IdempotencyRecord, {})
        return [dict(rows[pair]) for pair in zip(users, keys, strict=True) if pair in rows]


class Counter:
    """A use case that counts its executions. The command "bad" is refused."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.executed: list[str] = []
        self.work = partial(execute, self.count)

    async def count(self, tx: Transaction, commands: Sequence[str]) -> list[int | Problem]:
        results: list[int | Problem] = []
        for command in commands:
            self.executed.append(command)
            results.append(NotFound("Nothing bad.") if command == "bad" else len(self.executed))
        return results

    def batch(self, *sent: IdempotentRequest[str]) -> list[Answer]:
        with self.memory.transaction() as tx:
            tx.fetch = Keys(self.memory).fetch  # type: ignore[method-assign]
            return [Answer.of(response) for response in at_once(self.work(tx, sent))]


def a_request(
    command: str = "one", key: str | None = "k", user: UUID = ADA
) -> IdempotentRequest[str]:
    return IdempotentRequest(
        command,
        "/count",
        lambda count: CountView(count=count),
        status=201,
        location=lambda count: f"/count/{count}",
        key=(user, key) if key else None,
        fingerprint=f"fingerprint of {command}",
    )


@pytest.fixture
def counter() -> Counter:
    return Counter()


def replayed_from(answer: Answer) -> Answer:
    """The answer to a repeated request."""
    return answer._replace(headers={"idempotent-replayed": "true", **answer.headers})


@pytest.mark.parametrize("command", ["one", "bad"])
def test_a_repeated_request_gets_the_stored_response_and_runs_once(
    counter: Counter, command: str
) -> None:
    [first] = counter.batch(a_request(command))
    [second] = counter.batch(a_request(command))
    assert second == replayed_from(first)
    assert counter.executed == [command]


@pytest.mark.parametrize("command", ["one", "bad"])
def test_fifty_concurrent_requests_run_once(counter: Counter, command: str) -> None:
    first, *others = counter.batch(*[a_request(command) for _ in range(50)])
    assert others == [replayed_from(first)] * 49
    assert counter.executed == [command]


def test_a_refusal_is_replayed_as_a_problem(counter: Counter) -> None:
    counter.batch(a_request("bad"))
    [replayed] = counter.batch(a_request("bad"))
    assert (replayed.status, replayed.headers["content-type"]) == (404, "application/problem+json")


def test_another_request_with_the_same_key_is_refused(counter: Counter) -> None:
    one, other = counter.batch(a_request("one"), a_request("two"))
    assert one.status == 201
    assert other.status == 422
    assert b'"reason": "idempotency_key_reused"' in other.body
    [later] = counter.batch(a_request("two"))
    assert later == other
    assert counter.executed == ["one"]


def test_a_key_belongs_to_its_user(counter: Counter) -> None:
    [adas] = counter.batch(a_request(user=ADA))
    [bobs] = counter.batch(a_request(user=BOB))
    assert (adas.body, bobs.body) == (b'{"count":1}', b'{"count":2}')


def test_requests_without_a_key_always_run(counter: Counter) -> None:
    responses = counter.batch(a_request(key=None), a_request(key=None))
    assert [response.body for response in responses] == [b'{"count":1}', b'{"count":2}']
    assert counter.memory.rows(IdempotencyRecord) == []


def test_a_repeated_batch_without_keys_is_executed_again(counter: Counter) -> None:
    counter.work = partial(execute_once, counter.count)
    one = a_request(key=None)
    assert [answer.body for answer in counter.batch(one, one)] == [b'{"count":1}', b'{"count":2}']


def test_a_key_that_another_transaction_has_used_meanwhile_fails_the_batch(
    counter: Counter,
) -> None:
    """The group committer then repeats the batch, which finds the response."""
    [first] = counter.batch(a_request())
    with counter.memory.transaction() as tx:
        tx.fetch = nothing  # type: ignore[method-assign]
        with pytest.raises(DuplicateError):
            at_once(counter.work(tx, [a_request(), a_request(key=None)]))
    again, keyless = counter.batch(a_request(), a_request(key=None))
    assert (again, keyless.status) == (replayed_from(first), 201)


async def nothing(sql: str, *values: Any) -> list[Any]:
    """A SELECT before the other transaction has committed."""
    return []


requests = st.builds(
    a_request,
    st.sampled_from(["one", "two", "bad"]),
    st.sampled_from(["k", "l", None]),
    st.sampled_from([ADA, BOB]),
)


@given(st.lists(st.lists(requests, max_size=6), max_size=6))
def test_in_any_batches_each_key_runs_once_and_gets_one_response(
    batches: list[list[IdempotentRequest[str]]],
) -> None:
    counter = Counter()
    first: dict[Any, tuple[IdempotentRequest[str], Answer]] = {}
    keyless = 0
    for batch in batches:
        for one, response in zip(batch, counter.batch(*batch), strict=True):
            if one.key is None:
                keyless += 1
                assert "idempotent-replayed" not in response.headers
            elif one.key not in first:
                first[one.key] = (one, response)
            elif first[one.key][0].fingerprint == one.fingerprint:
                assert response == replayed_from(first[one.key][1])
            else:
                assert response.status == 422
    assert len(counter.executed) == len(first) + keyless
