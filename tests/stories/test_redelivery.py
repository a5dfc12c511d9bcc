"""The broker may deliver anything again, in any order, to services that come and go: it has its effects once."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import pytest

from apps import SERVICES
from chassis.messaging.outbox import Row
from chassis.messaging.topology import queue_name
from events.base import Envelope, Event
from events.contracts import language
from events.users import SigningKeyPublished
from ops.subscriptions import SUBSCRIPTIONS
from tests.stories.customers import Customer
from tests.stories.journal import outbox_row_of
from tests.stories.stack import Stack
from tests.support.eventually import eventually

State = dict[str, list[dict[str, Any]]]

TABLES: Final = {
    "users": ("users", "signing_keys"),
    "billing": ("holders", "accounts", "transfers", "charges", "signing_keys"),
    "orders": ("customers", "orders", "signing_keys"),
    "notifications": ("recipients", "notifications", "signing_keys"),
}
"""The tables of each service, except the inbox."""


async def stored_state(chorus: Stack) -> State:
    """The state of all services at rest."""
    await chorus.is_quiet()
    return {
        f"{service}.{table}": await chorus.rows(service, f"SELECT * FROM {table} ORDER BY 1")
        for service, tables in TABLES.items()
        for table in tables
    }


def published_ids(chorus: Stack) -> set[UUID]:
    """The ids of all published events."""
    return {event.id for event in chorus.journal.events()}


async def a_flow_with_every_event(chorus: Stack) -> list[Envelope[Event]]:
    """Two customers do everything that there is to do; returns the events, in order."""
    ada = await chorus.customer("Ada Lovelace", "en", deposit="100.00")
    sofja = await chorus.customer("Софья Ковалевская", "ru", deposit="100.00")
    await asyncio.gather(_do_everything(chorus, ada), _do_everything(chorus, sofja))
    await chorus.is_quiet()
    events = chorus.journal.flow(ada.flow, sofja.flow)
    events += chorus.journal.events(SigningKeyPublished)
    assert {type(received.event) for received in events} == {*language().values()}
    return events


async def _do_everything(chorus: Stack, customer: Customer) -> None:
    paid = [await customer.order("20.00") for _ in range(3)]
    refused = await customer.order("1000.00")
    for order_id in (*paid, refused):
        await customer.settled(order_id)
    await customer.change(name="Somebody Else")
    await customer.cancel(paid[1])
    await customer.change(email=f"other-{customer.flow}@example.com", locale="ru")
    assert (await customer.withdraw("5.50")).status_code == 201
    await customer.notified(paid[1], "refund")
    chorus.refused_for_good.add(f"gone-{customer.flow}@example.com")
    with chorus.mail.refusing(f"gone-{customer.flow}@example.com", "550 no such mailbox"):
        await customer.change(email=f"gone-{customer.flow}@example.com")
        await chorus.is_quiet()
        await customer.notified(await customer.order("1.00"), "joy", "failed")
    await customer.change(email=f"back-{customer.flow}@example.com")


async def handled(chorus: Stack, *, only_new: bool = False) -> dict[str, float]:
    """How many deliveries of events each queue's consumer has handled since its process began."""
    return {
        queue_name(service, kind): sum(
            [
                await chorus.metric(
                    chorus[service], f"chorus_inbox_{name}_total", queue=queue_name(service, kind)
                )
                for name in (("processed",) if only_new else ("processed", "duplicates"))
            ]
        )
        for service, kinds in SUBSCRIPTIONS.items()
        for kind in kinds
    }


def expected(events: Sequence[Row]) -> dict[str, int]:
    """How many deliveries each queue gets when these are published."""
    return {
        queue_name(service, kind): sum(event.routing_key == kind.key for event in events)
        for service, kinds in SUBSCRIPTIONS.items()
        for kind in kinds
    }


async def has_handled(chorus: Stack, before: dict[str, float], published: Sequence[Row]) -> None:
    """Wait until every delivery of what was published has been handled."""
    wanted = {queue: before[queue] + more for queue, more in expected(published).items()}

    async def all_of_it() -> None:
        now = await handled(chorus)
        late = {queue: (now[queue], count) for queue, count in wanted.items() if now[queue] < count}
        assert not late, f"deliveries handled, and wanted: {late}"

    await eventually(all_of_it, within=40)


def shuffled(events: Sequence[Row], times: int) -> list[Row]:
    """Every event up to so many times, in no order."""
    chance = random.Random(14)
    again = [event for event in events for _ in range(chance.randint(1, times))]
    chance.shuffle(again)
    return again


@pytest.mark.parametrize("as_batch", [False, True], ids=["alone", "in batches"])
async def test_every_event_delivered_again_in_any_order_changes_nothing(
    chorus: Stack, as_batch: bool
) -> None:
    events = await a_flow_with_every_event(chorus)
    before, published, mail = (
        await stored_state(chorus),
        published_ids(chorus),
        len(chorus.mail.emails),
    )
    already, known = await handled(chorus), await handled(chorus, only_new=True)
    again = shuffled([outbox_row_of(event) for event in events], times=6)
    await chorus.broker.publish(*again, as_batch=as_batch)
    await has_handled(chorus, already, again)
    assert await handled(chorus, only_new=True) == known, "an inbox did not deduplicate"
    assert await stored_state(chorus) == before
    assert published_ids(chorus) == published
    assert len(chorus.mail.emails) == mail


async def test_events_redelivered_while_services_are_down_change_nothing(
    chorus: Stack,
) -> None:
    events = await a_flow_with_every_event(chorus)
    before, published, mail = (
        await stored_state(chorus),
        published_ids(chorus),
        len(chorus.mail.emails),
    )
    for service in SERVICES:
        chorus[service].terminate()
    assert {await chorus[service].ended() for service in SERVICES} == {0}
    again = shuffled([outbox_row_of(event) for event in events], times=6)
    half = len(again) // 2
    await chorus.broker.publish(*again[:half], as_batch=True)
    await chorus.broker.publish(*again[half:])
    await chorus.heal()
    await has_handled(chorus, dict.fromkeys(await handled(chorus), 0.0), again)
    assert await stored_state(chorus) == before
    # Users publishes its key at every start.
    assert published_ids(chorus) - published <= {
        key.id for key in chorus.journal.events(SigningKeyPublished)
    }
    assert len(chorus.mail.emails) == mail


async def test_events_published_again_after_the_inbox_was_purged_change_nothing(
    chorus: Stack,
) -> None:
    """Under new ids no inbox deduplicates them: versions and business keys must."""
    events = await a_flow_with_every_event(chorus)
    before, mail = await stored_state(chorus), len(chorus.mail.emails)
    already = await handled(chorus)
    published = published_ids(chorus)
    chance = random.Random(15)
    renamed = await chorus.publish_again(chance.sample([*events, *events], 2 * len(events)))
    await has_handled(chorus, already, renamed)
    assert await stored_state(chorus) == before
    assert published_ids(chorus) == published | {event.id for event in renamed}
    assert len(chorus.mail.emails) == mail
