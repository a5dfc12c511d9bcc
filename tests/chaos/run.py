"""A run: load, faults by the schedule, a look at the ledger now and then, rest, and the audit."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import stamina

from bench.answers import Answers
from ops.audit import audit
from tests.chaos.faults import Faults
from tests.chaos.schedule import CALM_SECONDS, Fault, schedule
from tests.chaos.shoppers import Shoppers
from tests.chaos.slips import DISTURBED, mend
from tests.chaos.verdict import Report
from tests.chaos.world import QUIET_SECONDS, NothingToDoError, World, running_world
from tests.stories.journal import Journal
from tests.stories.snapshot import snapshot_of
from tests.stories.snapshot_rules import violations
from tests.support.eventually import eventually
from tools.children import ChildFailed

LOOK_SECONDS: Final = 30.0
"""Seconds between two checks, during the run, of the invariants that always hold."""

IN_THE_RUN: Final = {1, 2}
"""The invariants that hold at every moment, even between two steps."""

TRIES: Final = 4
"""How often a fault is tried that finds nothing to do: what it is about may be down, or at rest, for another fault."""

AGAIN_SECONDS: Final = 3.0

MEND_PAUSE_SECONDS: Final = 1.0
"""Between publishing what is lacking and looking again: what waits in a queue counts as lacking."""

Say = Callable[[str], None]


async def run(report: Report, rate: float, say: Say) -> None:
    """Run everything, from empty servers to the report. `rate` is in requests per second."""
    seed, minutes = report.seed, report.minutes
    async with running_world() as world:
        shoppers = Shoppers(world, report, rate, seed)
        await shoppers.register()
        say(f"{len(world.replicas)} processes run, {len(shoppers.paid_in)} customers shop")
        looking = asyncio.create_task(_look(world, report, say))
        async with shoppers.shopping():
            await _suffer(world, report, schedule(seed, minutes), minutes * 60, say)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await _recover(world, report, say)
        await _audit(world, shoppers, report, say)


async def done(
    do: Callable[[Fault], Awaitable[None]],
    fault: Fault,
    say: Say,
    *,
    pause_seconds: float = AGAIN_SECONDS,
) -> bool:
    """Do a fault, several times if it finds nothing to do or another fault disturbs it. Returns whether it was done."""
    for _ in range(TRIES):
        try:
            await do(fault)
        except (NothingToDoError, AssertionError, ChildFailed, *DISTURBED) as nothing:
            say(f"not done, {fault}: {nothing!r}")
            await asyncio.sleep(pause_seconds)
        else:
            return True
    return False


async def _suffer(
    world: World, report: Report, faults: list[Fault], seconds: float, say: Say
) -> None:
    begun = time.monotonic()

    def timed(text: str) -> None:
        say(f"{_clock(begun)} {text}")

    doing = Faults(world, timed)

    async def suffer(fault: Fault) -> None:
        if await done(doing.do, fault, timed):
            timed(f"{fault} ({fault.seconds} s); {report.accepted:,} orders")
            report.faults[fault.kind] += 1
            report.varieties[str(fault)] += 1

    async with asyncio.TaskGroup() as together:
        for fault in faults:
            await asyncio.sleep(begun + fault.at - time.monotonic())
            together.create_task(suffer(fault))
    await asyncio.sleep(max(CALM_SECONDS, begun + seconds - time.monotonic()))


def _clock(begun: float) -> str:
    passed = int(time.monotonic() - begun)
    return f"{passed // 60:02}:{passed % 60:02}"


async def _look(world: World, report: Report, say: Say) -> None:
    """What must hold at every moment: the ledger adds up, and no balance is below zero."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                seen = await audit(world.urls, numbers=IN_THE_RUN, timeout_seconds=2)
        except DISTURBED as error:
            say(f"not looked, for the database suffers: {error!r}")
            continue
        report.looks += 1
        report.sort_out([f"in the run: {line}" for line in seen.lines()])


async def _recover(world: World, report: Report, say: Say) -> None:
    begun = time.monotonic()

    async def empty() -> None:
        try:
            assert await world.outboxes() == 0
        except DISTURBED as error:
            raise AssertionError(repr(error)) from error

    try:
        await eventually(empty, within=QUIET_SECONDS)
    except AssertionError:
        say("the outboxes do not become empty")
        return
    report.recovery = time.monotonic() - begun
    try:
        await world.is_healed()
    except AssertionError as unwell:  # the audit may report more
        report.violations.append(f"not healed: {unwell}")
    await _mend(world, report, say)


async def _mend(world: World, report: Report, say: Say) -> None:
    """What operators' slips have lost is published again, until no subscriber lacks anything."""

    async def mended() -> None:
        try:
            lacking = await mend(world, timedelta(0))
        except DISTURBED as error:
            raise AssertionError(repr(error)) from error
        if lacking:
            say(f"{lacking:,} events were lacking, and are published again")
            await asyncio.sleep(MEND_PAUSE_SECONDS)
            raise AssertionError(f"{lacking} events are lacking")

    try:
        await eventually(mended, within=QUIET_SECONDS)
    except AssertionError as error:
        report.violations.append(f"not mended: {error}")


async def _audit(world: World, shoppers: Shoppers, report: Report, say: Say) -> None:
    await world.fresh_broker()
    try:
        await eventually(world._is_quiet, within=QUIET_SECONDS)
    except AssertionError as unrest:
        report.violations.append(f"no rest: {unrest}")
    report.violations += await world.unexplained_dead_letters()
    say("at rest; the audit begins")
    begun = time.monotonic()
    async for attempt in stamina.retry_context(on=DISTURBED):
        with attempt:
            seen = await audit(
                world.urls, [Answers(world.history)], at_rest=True, timeout_seconds=5
            )
            snapshot = await snapshot_of(world)
    say(f"`chorus audit` took {time.monotonic() - begun:.1f} s")
    report.sort_out(seen.lines())
    report.sort_out(violations(snapshot))
    report.sort_out(await shoppers.money_that_is_wrong())
    report.events, report.emails = len(snapshot.events), len(world.mail.emails)
    report.paid = await world.value("orders", "SELECT count(*) FROM orders WHERE status = 'paid'")
    report.journal_gaps = len({received.id for received in snapshot.events} - await _kept(world))
    report.extra_copies = report.emails - len({m.notification_id for m in world.mail.emails})


async def _kept(world: World) -> set[UUID]:
    """The ids of all events that the stream has."""
    journal = Journal(world.installation.amqp_admin_url)
    await journal.open()
    try:
        await journal.up_to_now(within=120)
        return {received.id for received in journal.events()}
    finally:
        await journal.close()
