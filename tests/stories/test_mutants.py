"""Tests of the audit: it reports Chorus without one of its mechanisms, and reports nothing with all of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from bench.answers import Answers
from chassis.messaging.outbox import GROUP
from events.billing import FundsDeposited, PaymentSucceeded
from events.users import UserRegistered
from ops.audit import audit
from tests.stories.journal import outbox_row_of
from tests.stories.snapshot import snapshot_of
from tests.stories.snapshot_rules import violations
from tests.stories.stack import Stack
from tests.support import mutants
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.forked import Fork, ForkedService
from tests.support.processes import Processes
from tests.support.proxy import Proxy

REST_SECONDS: Final = 5.0
"""How long rest is waited for; a mutant may never come to it."""


class Mutant(ForkedService):
    """A service of the kind that a test names."""

    mutation = ""

    def _child(self, command: list[str], log: Path, environment: Mapping[str, str]) -> Fork:  # type: ignore[override]
        return super()._child(command, log, {**environment, mutants.VARIABLE: self.mutation})


async def redelivery(chorus: Stack) -> None:
    """Every published event is delivered again."""
    ada = await chorus.customer(deposit="100.00")
    await ada.settled(await ada.order("30.00"))
    await chorus.journal.up_to_now()
    await chorus.broker.publish(*map(outbox_row_of, chorus.journal.flow(ada.flow)))


async def a_death_at_work(chorus: Stack) -> None:
    """Billing dies while it charges an order."""
    ada = await chorus.customer(deposit="100.00")
    billing = chorus["billing"]
    assert isinstance(billing, ForkedService)
    billing.kill()
    billing.launch(crash_at="committer.before_commit@OrderPlaced")
    await billing.ready()
    await ada.order("30.00")

    async def dead() -> bool:
        return not billing.child.running

    await eventually(dead)
    await billing.start()


async def a_rush(chorus: Stack) -> None:
    """Two processes of billing work on one account at once. The table does not stand in for the lock."""
    await chorus.rows("billing", mutants.NO_VERSION_KEY)
    ada = await chorus.customer(deposit="1000.00")
    async with chorus.replica("billing") as other:
        for _ in range(5):
            await asyncio.gather(
                *(ada.order("1.00") for _ in range(10)),
                *(
                    ada.ask(at, "POST", f"/account/{ada.id}/deposit", {"amount": "1.00"})
                    for at in ("billing", other)
                    for _ in range(20)
                ),
            )
        with contextlib.suppress(AssertionError):
            await eventually(chorus._is_quiet, within=REST_SECONDS)


async def a_late_commit(chorus: Stack) -> None:
    """A transaction whose event has a lower id commits after others have left."""
    early = UUID(int=uuid7().int // GROUP * GROUP)
    ada = await chorus.customer(deposit="100.00")
    await ada.settled(await ada.order("30.00"))
    await chorus.journal.up_to_now()
    [deposited] = [
        received
        for received in chorus.journal.flow(ada.flow)
        if isinstance(received.event, FundsDeposited)
    ]
    chorus.republished.add(early)
    await chorus.rows("billing", _INTO_OUTBOX, *outbox_row_of(deposited, id=early))


async def stale_news(chorus: Stack) -> None:
    """An older version of a user is published again under a new id."""
    ada = await chorus.customer()
    await ada.change(name="Ada King")
    await chorus.has_processed("orders", UserRegistered, ada.id)
    await eventually(chorus._is_quiet)
    registered = [
        received
        for received in chorus.journal.flow(ada.flow)
        if isinstance(received.event, UserRegistered)
    ]
    await chorus.publish_again(registered)


async def a_broken_line(chorus: Stack) -> None:
    """What orders publishes is lost on its way to the broker."""
    url = chorus.installation.amqp_url("orders")
    async with Proxy.before(url) as line:
        ada = await chorus.customer(deposit="100.00")
        orders = chorus["orders"]
        orders.kill()
        orders.child.start({"CHORUS_AMQP_URL_ORDERS": line.url(url)})
        await orders.ready()
        await ada.settled(await ada.order("1.00"))
        line.freeze()
        await ada.order("30.00")

        async def sent() -> bool:
            return bool(await chorus.value("orders", "SELECT count(*) FROM outbox") == 0)

        with contextlib.suppress(AssertionError):
            await eventually(sent, within=6)
        line.lose()
        orders.kill()
        await orders.start()


async def news_twice(chorus: Stack) -> None:
    """A payment is published again under a new id."""
    ada = await chorus.customer(deposit="100.00")
    order_id = await ada.order("30.00")
    await ada.notified(order_id, "joy")
    await chorus.journal.up_to_now()
    payments = [e for e in chorus.journal.flow(ada.flow) if isinstance(e.event, PaymentSucceeded)]
    await chorus.publish_again(payments)


async def news_twice_without_a_key(chorus: Stack) -> None:
    """The same, without the unique index on notifications."""
    await chorus.rows("notifications", "DROP INDEX notifications_once")
    await news_twice(chorus)


Situation = Callable[[Stack], Awaitable[None]]

FOUND_OUT: Final[dict[str, Situation]] = {
    "no_inbox": redelivery,
    "ack_first": a_death_at_work,
    "unlocked_balance": a_rush,
    "relay_by_last_id": a_late_commit,
    "no_version_guard": stale_news,
    "unconfirmed_publish": a_broken_line,
}


@contextlib.asynccontextmanager
async def played(
    install: Install, folder: Path, name: str, mutation: str, situation: Situation
) -> AsyncIterator[list[str]]:
    """What an audit finds after a situation."""
    kind = type("Kind", (Mutant,), {"mutation": mutation})
    chorus = Stack(await install(name), Processes(folder, kind))
    try:
        await chorus.start()
        await situation(chorus)
        found = []
        try:
            await eventually(chorus._is_quiet, within=REST_SECONDS)
        except AssertionError as unrest:
            found.append(f"no rest: {unrest}")
        report = await audit(
            chorus.urls,
            [Answers(chorus.history)],
            at_rest=True,
            timeout_seconds=1,
            republished=chorus.republished,
        )
        yield [*found, *report.lines(), *violations(await snapshot_of(chorus))]
    finally:
        await chorus.stop()


@pytest.mark.parametrize("mutation", FOUND_OUT)
async def test_a_mutant_is_found(mutation: str, install_chorus: Install, tmp_path: Path) -> None:
    name = f"mutant_{mutation}"
    async with played(install_chorus, tmp_path, name, mutation, FOUND_OUT[mutation]) as found:
        assert [line for line in found if not line.startswith("no rest")], found


async def test_notifications_without_a_unique_key_are_found(
    install_chorus: Install, tmp_path: Path
) -> None:
    async with played(install_chorus, tmp_path, "keyless", "", news_twice_without_a_key) as found:
        assert any("2 times (joy," in line for line in found), found


@pytest.mark.parametrize(
    "situation",
    [redelivery, a_late_commit, stale_news, a_broken_line, news_twice],
    ids=lambda situation: situation.__name__,
)
async def test_with_every_mechanism_nothing_is_found(situation: Situation, chorus: Stack) -> None:
    """The stack is audited after each story."""
    await situation(chorus)


async def test_a_crash_of_a_correct_service_is_no_finding(crashable: Stack) -> None:
    await a_death_at_work(crashable)


async def test_locks_alone_serialize_concurrent_orders(crashable: Stack) -> None:
    """The table's unique version is the second line of defence; the first holds without it."""
    try:
        await a_rush(crashable)
    finally:
        await crashable.rows("billing", mutants.VERSION_KEY)


def test_every_mutant_is_tried() -> None:
    assert FOUND_OUT.keys() == mutants.MUTANTS.keys()


_INTO_OUTBOX = """
WITH logged AS (INSERT INTO event_log VALUES ($1, $2, $3, $4, $5, $6) RETURNING id)
INSERT INTO outbox (id) SELECT id FROM logged
"""
