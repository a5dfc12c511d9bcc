"""Every crash point, with every event that passes it: everything has its effects once, and nothing is lost.

Each service dies at the point repeatedly, once for each event that it publishes or consumes there; the other services
do the same meanwhile. The result is audited, as after each story.
"""

import asyncio
from collections import Counter
from typing import Final, get_args

import aio_pika
import pytest
from uuid_utils.compat import uuid7

from apps import SERVICES
from chassis.crash_points import POINTS
from chassis.messaging.topology import DEAD, queue_name
from events.base import Event
from events.contracts import language
from events.notifications import NotificationKind
from events.users import SigningKeyPublished
from ops.subscriptions import SUBSCRIPTIONS
from tests.stories.event_logs import logged
from tests.stories.journal import outbox_row_of
from tests.stories.lanes import Lane
from tests.stories.stack import Stack
from tests.stories.triggers import Triggers
from tests.support.eventually import eventually

PUBLISHED_BY: Final = {
    service: [kind for kind in language().values() if kind.exchange == service]
    for service in SERVICES
}
SUBSCRIBERS: Final = {
    kind: [service for service in SERVICES if kind in SUBSCRIPTIONS[service]]
    for kind in language().values()
    if any(kind in kinds for kinds in SUBSCRIPTIONS.values())
}
PUBLISHING: Final = [
    point for point in POINTS if point.startswith(("relay.", "journal_relay.", "publisher."))
]
CONSUMING: Final = [point for point in POINTS if point.startswith("inbox.")]
DECIDING: Final = ["committer.before_commit", "committer.after_commit"]
MAILING: Final = [point for point in POINTS if point.startswith("dispatcher.")]


@pytest.fixture
async def triggers(crashable: Stack) -> Triggers:
    return await Triggers.of(crashable)


_OF_KIND: Final = "SELECT id FROM notifications WHERE kind = $1"


def events_at(service: str, point: str) -> list[type[Event]]:
    """The events that pass a point of a service."""
    passing: list[type[Event]] = []
    if point in PUBLISHING or point in DECIDING:
        passing += PUBLISHED_BY[service]
    if point in CONSUMING or point in DECIDING or point == "committer.after_begin":
        passing += [kind for kind in SUBSCRIPTIONS[service] if kind not in passing]
    return passing


@pytest.mark.parametrize("point", [*PUBLISHING, *CONSUMING, *DECIDING, "committer.after_begin"])
async def test_a_crash_at_any_point_loses_and_doubles_nothing(
    crashable: Stack, triggers: Triggers, point: str
) -> None:
    stories: list[asyncio.Task[None]] = []

    async def die_for_each(service: str) -> None:
        lane = Lane(crashable, service, point)
        for kind in events_at(service, point):
            await lane.armed(kind.__name__)
            if not (kind is SigningKeyPublished and service == "users"):  # published at each start
                stories.append(asyncio.create_task(triggers.make(kind)))
            await lane.died(kind.__name__)
        await lane.restarted()

    await asyncio.gather(*(die_for_each(service) for service in SERVICES))
    await asyncio.gather(*stories)
    await crashable.is_quiet()
    assert await logged(crashable) <= {event.id for event in crashable.journal.events()}


@pytest.mark.parametrize("point", MAILING)
async def test_a_crash_of_the_dispatcher_doubles_an_e_mail_at_most_once(
    crashable: Stack, triggers: Triggers, point: str
) -> None:
    lane = Lane(crashable, "notifications", point)
    for kind in get_args(NotificationKind):
        before = len(crashable.mail.emails)
        await lane.armed(kind)
        story = asyncio.create_task(triggers.make(kind))
        await lane.died(kind)
        await lane.restarted()
        await story
        await crashable.is_quiet()
        ids = [str(row["id"]) for row in await crashable.rows("notifications", _OF_KIND, kind)]
        emails = [mail for mail in crashable.mail.emails[before:] if mail.notification_id in ids]
        copies = len(emails) - len({email.notification_id for email in emails})
        assert copies == (1 if point == "dispatcher.after_accept" else 0)
        crashable.extra_copies += copies
        assert len({email.source for email in emails}) == len(emails) - copies


@pytest.mark.parametrize("point", ["dead_letters.after_publish", "publisher.after_publish"])
async def test_each_crash_during_dead_lettering_leaves_one_more_copy_at_most(
    crashable: Stack, point: str
) -> None:
    """A crash doubles what is being dead-lettered at that moment, messages of crashes before among it."""

    async def die_for_each(service: str) -> None:
        lane = Lane(crashable, service, point)
        # The service's own events pass the publisher at each start.
        kinds = [kind for kind in SUBSCRIPTIONS[service] if kind.exchange != service]
        for kind in kinds:
            await lane.armed(kind.__name__)
            bad = aio_pika.Message(b"{", type=kind.__name__, message_id=f"bad {kind.__name__}")
            await crashable.broker.send(bad, "", queue_name(service, kind))
            await lane.died(kind.__name__)
        await lane.restarted()
        found: Counter[str | None] = Counter()

        async def each_is_there_twice() -> bool:
            while (letter := await crashable.broker.take(f"{service}.{DEAD}")) is not None:
                found[letter.message_id] += 1
            return all(found[f"bad {kind.__name__}"] >= 2 for kind in kinds)

        await eventually(each_is_there_twice)
        assert await lane.process.stop() == 0
        assert await each_is_there_twice()
        for crashes_before, kind in enumerate(kinds):
            assert await crashable.broker.waiting(queue_name(service, kind)) == 0
            assert found.pop(f"bad {kind.__name__}") <= 1 + len(kinds) - crashes_before
        assert not found
        await lane.restarted()

    await asyncio.gather(*(die_for_each(service) for service in SERVICES))


FAULT: Final = """
CREATE OR REPLACE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a fault of this event'; END $$
"""
IN_ONE: Final = """
CREATE TRIGGER fault BEFORE INSERT ON inbox FOR EACH ROW
WHEN (NEW.id = event_group('{id}') AND NEW.members & event_member('{id}') <> 0)
EXECUTE FUNCTION fault()
"""
MENDED: Final = "DROP TRIGGER fault ON inbox"


async def test_a_crash_between_the_halves_of_a_split_batch_loses_neither(
    crashable: Stack, triggers: Triggers
) -> None:
    lanes = {service: Lane(crashable, service, "committer.between_halves") for service in SERVICES}
    for service in SERVICES:
        await crashable.rows(service, FAULT)
    for kind, services in SUBSCRIBERS.items():
        await triggers.make(kind)
        await crashable.is_quiet()
        [*_, received] = crashable.journal.events(kind)
        rows = [outbox_row_of(received, id=uuid7()) for _ in range(8)]
        crashable.republished |= {row.id for row in rows}
        await asyncio.gather(*(lanes[service].armed(kind.__name__) for service in services))
        for service in services:
            await crashable.rows(service, IN_ONE.format(id=rows[-1].id))
        await crashable.broker.publish(*rows, as_batch=True)
        for service in services:
            await lanes[service].died(kind.__name__)
            done = {row.id for row in rows} & await crashable.inbox(service)
            assert done == {row.id for row in rows[:4]}
            await crashable.rows(service, MENDED)
        await asyncio.gather(*(lanes[service].restarted() for service in services))


def test_every_point_has_its_test() -> None:
    tested = {*PUBLISHING, *CONSUMING, *DECIDING, *MAILING}
    assert POINTS.keys() - tested == {
        "committer.after_begin", "committer.between_halves", "dead_letters.after_publish",
    }  # fmt: skip
