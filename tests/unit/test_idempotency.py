"""The same key and body give the same answer again, in one batch and in many, and nothing is done twice."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.database.transaction import Transaction
from chassis.web.commands import (
    IdempotencyRecord,
    IdempotentRequest,
    StoredResponse,
    idempotent,
)
from chassis.web.problems import NotFound, Problem
from tests.unit.memory import Memory, at_once

ADA, BOB = UUID(int=1), UUID(int=2)


class Keys:
    """What the use case reads with SQL of its own: the answers to keys that were taken."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    async def fetch(self, sql: str, users: list[UUID], keys: list[str]) -> list[dict[str, Any]]:
        assert "FROM idempotency_keys WHERE (user_id, key) IN" in sql
        rows = self.memory.tables[IdempotencyRecord]
        return [dict(rows[pair]) for pair in zip(users, keys, strict=True)]


class Counter:
    """A use case that must not be done twice: it counts up. "bad" is refused."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.done: list[str] = []
        self.work = idempotent(self.count)

    async def count(self, tx: Transaction, commands: Sequence[str]) -> list[int | Problem]:
        results: list[int | Problem] = []
        for command in commands:
            self.done.append(command)
            results.append(NotFound("Nothing bad.") if command == "bad" else len(self.done))
        return results

    @staticmethod
    def answer(path: str, result: int | Problem) -> StoredResponse:
        if isinstance(result, Problem):
            return StoredResponse.of_problem(result, path)
        return StoredResponse(
            201, f'{{"count":{result}}}', headers={"Location": f"/count/{result}"}
        )

    def batch(self, *asked: IdempotentRequest[str]) -> list[StoredResponse]:
        with self.memory.transaction() as tx:
            tx.fetch = Keys(self.memory).fetch  # type: ignore[method-assign]
            answers: list[StoredResponse] = list(at_once(self.work(tx, asked)))
            return answers


def asks(command: str = "one", key: str | None = "k", user: UUID = ADA) -> IdempotentRequest[str]:
    return IdempotentRequest(
        command, "/count", Counter.answer, user, key, f"fingerprint of {command}"
    )


@pytest.fixture
def counter() -> Counter:
    return Counter()


def again(answer: StoredResponse) -> StoredResponse:
    """The same answer, as it is given to whoever repeats his request."""
    return StoredResponse(
        answer.status,
        answer.body,
        answer.media_type,
        {"Idempotent-Replayed": "true", **answer.headers},
    )


@pytest.mark.parametrize("command", ["one", "bad"])
def test_the_same_request_gets_the_same_answer_and_is_done_once(
    counter: Counter, command: str
) -> None:
    [first] = counter.batch(asks(command))
    [second] = counter.batch(asks(command))
    assert second == again(first)
    assert counter.done == [command]


@pytest.mark.parametrize("command", ["one", "bad"])
def test_fifty_at_the_same_moment_are_one(counter: Counter, command: str) -> None:
    first, *others = counter.batch(*[asks(command) for _ in range(50)])
    assert others == [again(first)] * 49
    assert counter.done == [command]


def test_a_refusal_is_replayed_as_a_problem(counter: Counter) -> None:
    counter.batch(asks("bad"))
    [replayed] = counter.batch(asks("bad"))
    assert (replayed.status, replayed.media_type) == (404, "application/problem+json")


def test_another_request_with_the_key_is_refused(counter: Counter) -> None:
    one, other = counter.batch(asks("one"), asks("two"))
    assert one.status == 201
    assert other.status == 422
    assert '"reason": "idempotency_key_reused"' in other.body
    [later] = counter.batch(asks("two"))
    assert later == other
    assert counter.done == ["one"]


def test_a_key_belongs_to_its_user(counter: Counter) -> None:
    [adas] = counter.batch(asks(user=ADA))
    [bobs] = counter.batch(asks(user=BOB))
    assert (adas.body, bobs.body) == ('{"count":1}', '{"count":2}')


def test_without_a_key_everything_is_done(counter: Counter) -> None:
    answers = counter.batch(asks(key=None), asks(key=None))
    assert [answer.body for answer in answers] == ['{"count":1}', '{"count":2}']
    assert counter.memory.rows(IdempotencyRecord) == []


requests = st.builds(
    asks,
    st.sampled_from(["one", "two", "bad"]),
    st.sampled_from(["k", "l", None]),
    st.sampled_from([ADA, BOB]),
)


@given(st.lists(st.lists(requests, max_size=6), max_size=6))
def test_in_any_company_each_key_is_done_once_and_answered_alike(
    batches: list[list[IdempotentRequest[str]]],
) -> None:
    counter = Counter()
    first: dict[Any, tuple[IdempotentRequest[str], StoredResponse]] = {}
    keyless = 0
    for batch in batches:
        for one, answer in zip(batch, counter.batch(*batch), strict=True):
            if one.key is None:
                keyless += 1
                assert "Idempotent-Replayed" not in answer.headers
            elif (one.user_id, one.key) not in first:
                first[one.user_id, one.key] = (one, answer)
            elif first[one.user_id, one.key][0].fingerprint == one.fingerprint:
                assert answer == again(first[one.user_id, one.key][1])
            else:
                assert answer.status == 422
    assert len(counter.done) == len(first) + keyless
