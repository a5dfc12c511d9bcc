"""An operator's slip at the broker loses messages: the audit names each event, and `chorus republish` mends it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import pytest
from typer.testing import CliRunner

from apps import SERVICES
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import DEAD, JOURNAL, Queue
from events.base import Event
from events.contracts import language
from events.orders import OrderPlaced
from events.users import SigningKeyPublished
from ops.audit import audit
from ops.journal import journal
from ops.main import cli
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.chaos.verdict import RED, Report
from tests.stories.stack import Stack
from tests.stories.triggers import Triggers
from tests.support.eventually import eventually
from tests.support.installation import environment

QUEUES = [
    queue
    for queue in TOPOLOGY.queues
    if queue.name != JOURNAL and not queue.name.endswith(f".{DEAD}")
]
"""All that services consume from."""

OF_NOTIFICATIONS = [queue for queue in QUEUES if queue.service == "notifications"]
"""Every event in them has another subscriber, so no publish is returned when they do not get it."""

RETURNED = {"outbox": "outbox", "reason": "returned"}
SUBSCRIBED = [kind for kind in language().values() if kind.subscribed]


async def unbound(chorus: Stack) -> None:
    """All bindings of one subscriber are deleted for a while; those of others keep the events routable."""
    await unbind(chorus, OF_NOTIFICATIONS)
    await orders_of_all_kinds(chorus)


async def unbind(chorus: Stack, queues: Sequence[Queue]) -> None:
    for queue in queues:
        found = await chorus.broker.channel.get_queue(queue.name, ensure=False)
        for exchange, key in queue.bindings:
            await found.unbind(exchange, key)


async def purged(chorus: Stack) -> None:
    """Queues are purged while their consumers do not run."""
    for service in ("billing", "notifications"):
        chorus[service].kill()
    ada = await chorus.customer(deposit=None)
    await ada.order("10.00")
    await everything_is_published(chorus)
    for queue in QUEUES:
        await chorus.broker.purge(queue.name)
    await chorus.heal()


async def deleted(chorus: Stack) -> None:
    """Queues are deleted under the service that consumes from them."""
    for queue in OF_NOTIFICATIONS:
        await chorus.broker.channel.queue_delete(queue.name)
    await orders_of_all_kinds(chorus)


async def orders_of_all_kinds(chorus: Stack) -> None:
    """A new customer with an order that can be paid, one that cannot, and one that is cancelled."""
    ada = await chorus.customer(deposit="100.00")
    for total in ("30.00", "500.00"):
        await ada.order(total)
    await ada.cancel(await ada.order("20.00"))
    await everything_is_published(chorus)


async def everything_is_published(chorus: Stack) -> None:
    async def empty() -> None:
        for service in SERVICES:
            assert await chorus.value(service, "SELECT count(*) FROM outbox") == 0, service

    await eventually(empty)


async def topology_is_applied(chorus: Stack) -> None:
    """What an operator does who has noticed: `chorus migrate`."""
    installation = chorus.installation
    users = {service: installation.amqp_url(service) for service in SERVICES}

    def apply() -> None:
        with Administration(installation.servers.rabbitmq_api_url) as broker:
            broker.apply(TOPOLOGY, users)

    await asyncio.to_thread(apply)


async def republish(chorus: Stack, *arguments: str) -> str:
    with environment(chorus.installation.environment):
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["republish", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def counts(printed: str) -> dict[str, int]:
    """Events by service or queue, as printed."""
    lines = [line.split() for line in printed.splitlines()]
    return {name.rstrip(":"): int(count.replace(",", "")) for name, count, *_ in lines}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("slip", [unbound, purged, deleted])
async def test_what_subscribers_lack_is_found_and_published_to_them(
    chorus: Stack, slip: Callable[[Stack], Awaitable[None]]
) -> None:
    await chorus.is_quiet()
    assert "no subscriber lacks" in await republish(chorus, "--missing")
    await slip(chorus)
    await topology_is_applied(chorus)
    report = await audit(chorus.urls, timeout_seconds=1, republished=chorus.republished)
    assert 9 in report.violated, "the audit names what was not received"
    chaos = Report(seed=0, minutes=1, recovery=0.0)
    chaos.sort_out(report.lines())
    assert chaos.lost
    assert chaos.status == RED, "chaos that does not mend a slip is red"
    would_be = await republish(chorus, "--missing", "--dry-run")
    assert 9 in (await audit(chorus.urls, timeout_seconds=1)).violated, (
        "a dry run publishes nothing"
    )
    were = await republish(chorus, "--missing")
    # An outcome that follows from an order may be missing as well by the time its queue is read.
    assert counts(would_be).keys() <= counts(were).keys()
    assert all(counts(were)[queue] >= count for queue, count in counts(would_be).items())
    await chorus.is_quiet()
    assert "no subscriber lacks" in await republish(chorus, "--missing")


@pytest.mark.parametrize("kind", SUBSCRIBED, ids=lambda kind: kind.__name__)
async def test_an_event_without_a_queue_is_reported_and_waits_for_chorus_migrate(
    chorus: Stack, kind: type[Event]
) -> None:
    triggers = await Triggers.of(chorus)
    await chorus.is_quiet()
    bound = [queue for queue in QUEUES if (kind.exchange, kind.key) in queue.bindings]
    publisher = chorus[kind.exchange]

    async def returned() -> float:
        return await chorus.metric(publisher, "chorus_relay_failed_total", **RETURNED)

    before = await returned()
    await unbind(chorus, bound)
    if kind is SigningKeyPublished:  # it is published at each start, which resets counters
        await publisher.stop()
        await publisher.start()
        before = 0
    else:
        await triggers.make(kind)

    async def reported() -> None:
        assert await returned() > before

    await eventually(reported)
    await topology_is_applied(chorus)
    await chorus.is_quiet()
    assert "no subscriber lacks" in await republish(chorus, "--missing")


async def test_everything_published_again_changes_nothing(chorus: Stack) -> None:
    await orders_of_all_kinds(chorus)
    await chorus.is_quiet()
    before = {service: await chorus.inbox(service) for service in SERVICES}
    published = await republish(chorus, "--all")
    assert all(f"{service}: " in published for service in SERVICES)
    await chorus.is_quiet()
    assert {service: await chorus.inbox(service) for service in SERVICES} == before


async def test_filters_choose_what_is_published(chorus: Stack) -> None:
    ada, bea = await chorus.customer(deposit="9.00"), await chorus.customer(deposit="9.00")
    first = await ada.order("1.00")
    await (
        chorus.is_quiet()
    )  # events that are committed together share a row, which is published as a whole
    other = await bea.order("2.00")
    await chorus.is_quiet()

    async def published(*arguments: str) -> dict[str, int]:
        found = counts(await republish(chorus, *arguments))
        return {service: count for service, count in found.items() if count}

    assert await published("--aggregate", str(first), "--service", "orders") == {"orders": 2}
    assert await published("--aggregate", str(first), "--type", "OrderPlaced") == {"orders": 1}
    assert await published("--aggregate", str(ada.id), "--type", "OrderPlaced") == {}
    [placed] = [e for e in chorus.journal.flow(bea.flow) if isinstance(e.event, OrderPlaced)]
    assert await published("--event", str(placed.id)) == {"orders": 1}
    assert await published("--event", str(UUID(int=1))) == {}
    flow = placed.cause.correlation_id
    assert (await published("--correlation", flow)).keys() == {"orders", "billing", "notifications"}
    assert await published("--aggregate", str(other), "--to", "orders.user-registered") == {}
    assert await published("--aggregate", str(other), "--to", "billing.order-placed") == {
        "orders": 1
    }
    assert await published("--since", "1d", "--until", "1h") == {}
    assert (await published("--since", "1h"))["orders"] >= 4
    all_of_orders = await published("--service", "orders")
    assert set(all_of_orders) == {"orders"}


async def test_what_is_published_to_the_journal_again_serves_a_recovery(chorus: Stack) -> None:
    """A journal that has lost its data is filled from the event logs."""
    ada = await chorus.customer(deposit="9.00")
    order = await ada.order("1.00")
    await chorus.is_quiet()

    async def copies() -> int:
        url = chorus.installation.amqp_admin_url
        publisher = Publisher(url, "test")
        try:
            read = [event async for some in journal(url, publisher) for event in some]
        finally:
            await publisher.close()
        return len([event for event in read if event.event.subject == str(order)])

    await chorus.journal.up_to_now()
    before = await copies()
    await republish(chorus, "--aggregate", str(order), "--service", "orders", "--to", "journal")
    assert await copies() == before + 2  # placed and paid


async def test_a_row_for_another_services_exchange_is_not_published(chorus: Stack) -> None:
    """A service may append to its log; the administrator's login must not publish for it what it could not."""
    forged = (
        "INSERT INTO event_log SELECT '0e000000-0000-7000-8000-000000000000', 'users', 'user-registered.v1', now(), 1,"
        " cloudevents FROM event_log LIMIT 1"
    )
    await chorus.rows("orders", forged)
    try:
        printed = await republish(chorus, "--service", "orders", "--type", "UserRegistered")
        assert counts(printed) == {"orders": 0}
    finally:
        await chorus.rows("orders", "DELETE FROM event_log WHERE exchange = 'users'")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--missing", "--all"],
        ["--missing", "--type", "OrderPlaced"],
        ["--type", "OrderPlace"],
        ["--to", "billing.dead"],
        ["--to", "nowhere"],
        ["--since", "yesterday"],
        ["--event", "1"],
        ["--after", str(UUID(int=1)), "--all"],
        ["--correlation", ""],
        ["--service", "orders", "--aggregate", ""],
        ["--missing", "--to", ""],
    ],
)
def test_a_wrong_command_line_publishes_nothing(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, ["republish", *arguments])
    assert result.exit_code == 2 or isinstance(result.exception, LookupError), result.output


def test_every_queue_is_tried() -> None:
    assert {queue.service for queue in QUEUES} == set(SERVICES)
    assert all(isinstance(queue, Queue) for queue in QUEUES)
