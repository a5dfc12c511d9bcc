"""`audit` on real databases: what is well passes, and each way to spoil a table is found by the right invariant.

Each test spoils copies of databases in which a few orders were paid, refused, refunded and cancelled.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import pytest

from bench.answers import Answers, Attempt, History
from ops.audit import (
    DatabaseUnavailableError,
    audit,
    auditor,
    ledger,
    services,
)
from ops.audit.databases import reading
from ops.audit.delivery import DELIVERIES, Leftovers
from ops.audit.findings import Finding
from ops.audit.rules import Check, Source, View
from tests.stories.audited import Scene, run
from tests.stories.load import Load
from tests.stories.spoiling import SPOILED
from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.forked import ForkedService
from tests.support.processes import Processes

TIMEOUT_SECONDS: Final = 0.35
"""Enough for three rounds."""


@pytest.fixture(scope="module")
async def scene(install_chorus: Install, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    installation = await install_chorus("audited")
    chorus = Stack(installation, Processes(tmp_path_factory.mktemp("audited"), ForkedService))
    try:
        await chorus.start()
        ada = await chorus.customer(deposit="100.00")
        await ada.withdraw("5.00")
        orders = [await ada.order(total) for total in ("30", "20", "500")]
        for order_id in orders:
            await ada.settled(order_id)
        await ada.cancel(orders[1])
        assert (await ada.ask_for_order("0.00")).status_code == 422
        await chorus.is_quiet()
        assert not await chorus.audit()
        history = chorus.history
    finally:
        await chorus.stop()
    return Scene(installation.servers.database_admin_url, chorus.urls, history)


async def test_a_consistent_system_has_no_findings(scene: Scene) -> None:
    report = await audit(
        scene.urls, [Answers(scene.history)], at_rest=True, timeout_seconds=TIMEOUT_SECONDS
    )
    assert report.lines() == []
    assert report.clean
    assert all(one.rows for one in report.invariants)


@pytest.mark.parametrize(("invariant", "spoiling"), SPOILED.values(), ids=SPOILED)
async def test_an_inconsistency_is_found(
    scene: Scene, invariant: int, spoiling: Mapping[str, str]
) -> None:
    async with scene.spoiled(spoiling) as urls:
        report = await audit(
            urls, [Answers(scene.history)], at_rest=True, timeout_seconds=TIMEOUT_SECONDS
        )
    assert invariant in report.violated, report.lines()


def test_every_invariant_is_violated_here() -> None:
    assert {invariant for invariant, _ in SPOILED.values()} == set(range(1, 10))


def _copies(table: str) -> Source:
    [comparison] = [one for projection, one in services.COPIES.items() if projection.name == table]
    return comparison


ONLY_BY: Final[dict[str, tuple[Source, int | None]]] = {
    "wallets do not add up": (ledger.WALLETS, 0),
    "a balance is negative": (ledger.WALLETS, 1),
    "an account is in another version": (ledger.WALLETS, 2),
    "net deposits differ": (ledger.WALLETS, 3),
    "a transfer goes elsewhere": (ledger.TRANSFERS, 0),
    "a deposit is about an order": (ledger.TRANSFERS, 1),
    "a balance was negative": (ledger.TRANSFERS, 2),
    "the view omits what orders bring in": (ledger.TRANSACTIONS, 0),
    "a cancelled order was kept": (ledger.CHARGES, 0),
    "an order was debited twice, and the ledger follows": (ledger.CHARGES, 1),
    "the balance was another": (ledger.REFUSALS, 0),
    "an order stays pending": (services.OUTCOMES, 0),
    "an order had two outcomes": (services.OUTCOMES, 1),
    "a paid order was refunded": (services.OUTCOMES, 2),
    "an order was decided otherwise": (services.DECISIONS, None),
    "it was not cancelled": (services.CANCELLED_REFUSALS, None),
    "billing knows another order": (services.CHARGED_ORDERS, None),
    "a notification has the address of another user": (services.NOTIFICATIONS, 0),
    "a notification's cause was never received": (services.NOTIFICATIONS, 1),
    "a notification is missing": (services.OUTCOMES_NOTIFIED, None),
    "a copy is of another version": (_copies("holders"), None),
    "a copy has no owner": (_copies("customers"), None),
    "a copy is old": (_copies("recipients"), None),
    "a key is missing": (services.SIGNING_KEYS, None),
    **{
        f"{one.other.service} has received what {one.one.service} has not published": (one, None)
        for one in DELIVERIES
        if not one.of_any_time
    },
    **{
        f"{one.other.service} has not received what {one.one.service} published by a slow clock": (
            one,
            None,
        )
        for one in DELIVERIES
        if one.of_any_time
    },
}
"""What each rule finds that no other one of its invariant does; of a check, by the rule's place in it."""


@pytest.mark.parametrize("spoiled", ONLY_BY)
async def test_no_rule_is_redundant(
    scene: Scene, spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, place = ONLY_BY[spoiled]
    others: list[Source] = [one for one in auditor.RULES if one is not source]
    if isinstance(source, Check):
        others.append(
            replace(source, rules=tuple(r for n, r in enumerate(source.rules) if n != place))
        )
    monkeypatch.setattr(auditor, "RULES", others)
    invariant, spoiling = SPOILED[spoiled]
    async with scene.spoiled(spoiling) as urls:
        report = await audit(urls, at_rest=True, timeout_seconds=0)
    assert invariant not in report.violated, report.lines()


def test_every_rule_is_violated_alone() -> None:
    tried = {*ONLY_BY.values()}
    for source in auditor.RULES:
        places = range(len(source.rules)) if isinstance(source, Check) else [None]
        assert all((source, place) in tried for place in places), source


@pytest.mark.parametrize(
    ("queue", "at_rest", "found"),
    [
        ("billing.dead", False, True),
        ("billing.order-placed", False, False),
        ("billing.order-placed", True, True),
    ],
)
async def test_messages_in_queues_are_left_over_if_dead_lettered_or_at_rest(
    scene: Scene, queue: str, at_rest: bool, found: bool
) -> None:
    async def depths() -> Mapping[str, int]:
        return {queue: 1}

    async with reading(scene.urls.databases) as databases:
        view = View(databases, grace=timedelta(0) if at_rest else timedelta(minutes=1))
        findings = await Leftovers(depths).find(view)
    expected = [Finding(8, f"1 messages lie in {queue}")] if found else []
    assert findings == expected


Change = Callable[[list[Attempt]], object]

ANSWERED: Final[dict[str, Change]] = {
    "an order was accepted and is lost": lambda a: a.append(Attempt(order_id=UUID(int=7))),
    "an order costs something else": lambda a: a.__setitem__(0, replace(a[0], total=1)),
    "an order is another's": lambda a: a.__setitem__(0, replace(a[0], user_id=UUID(int=7))),
    "two commands got one order": lambda a: a.extend(
        [Attempt(order_id=a[0].order_id), Attempt(order_id=a[0].order_id)]
    ),
    "one command got two orders": lambda a: a.__setitem__(1, replace(a[1], key=a[0].key)),
    "a refused request has an order": lambda a: a.__setitem__(
        0, replace(a[0], order_id=None, refused=True)
    ),
    "an order was never asked for": lambda a: a.pop(0),
}


@pytest.mark.parametrize("change", ANSWERED.values(), ids=ANSWERED)
async def test_an_untrue_response_is_found(scene: Scene, change: Change) -> None:
    attempts = list(scene.history.attempts)
    change(attempts)
    report = await audit(
        scene.urls, [Answers(History(attempts))], at_rest=True, timeout_seconds=TIMEOUT_SECONDS
    )
    assert report.violated == [3], report.lines()


async def test_a_request_without_a_response_may_have_an_order(scene: Scene) -> None:
    attempts = [replace(attempt, order_id=None) for attempt in scene.history.attempts]
    report = await audit(
        scene.urls, [Answers(History(attempts))], at_rest=True, timeout_seconds=TIMEOUT_SECONDS
    )
    assert report.lines() == []


async def test_an_unavailable_database_is_no_finding(scene: Scene) -> None:
    databases = {**scene.urls.databases, "orders": "postgresql://nobody@127.0.0.1:1/nothing"}
    with pytest.raises(DatabaseUnavailableError, match="orders"):
        await audit(replace(scene.urls, databases=databases))


NEW_ORDER: Final = """
INSERT INTO orders SELECT gen_random_uuid(), user_id, 77, currency, 'pending', NULL, now() - '{age}'::interval, NULL,
    NULL, 1 FROM orders LIMIT 1
"""


@pytest.mark.parametrize(("age", "violated"), [("50 seconds", []), ("70 seconds", [3])])
async def test_an_order_is_in_flight_for_a_minute(
    scene: Scene, age: str, violated: list[int]
) -> None:
    async with scene.spoiled({"orders": NEW_ORDER.format(age=age)}) as urls:
        report = await audit(urls, timeout_seconds=TIMEOUT_SECONDS)
    assert report.in_flight == 1
    assert report.violated == violated


async def test_what_is_consistent_in_the_next_round_was_in_flight(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = asyncio.Event()
    first: list[bool] = []
    evaluate = auditor.evaluate

    async def noted(*arguments: Any) -> dict[Source, list[Finding]]:
        found = await evaluate(*arguments)
        first.append(any(found.values()))
        evaluated.set()
        return found

    monkeypatch.setattr(auditor, "evaluate", noted)
    spoil = "UPDATE orders SET status = 'rejected' WHERE status = 'paid'"
    mend = "UPDATE orders SET status = 'paid' WHERE id IN (SELECT id FROM orders WHERE reason IS NULL AND version = 2)"
    async with scene.spoiled({"orders": spoil}) as urls:
        auditing = asyncio.create_task(audit(urls, at_rest=True, timeout_seconds=60))
        await evaluated.wait()
        name = urlsplit(urls.databases["orders"]).path
        await run(urlunsplit(urlsplit(scene.admin_url)._replace(path=name)), mend)
        report = await auditing
    assert first[0]
    assert report.lines() == []
    assert report.rounds > 1


async def test_a_system_under_load_is_audited_without_a_finding(chorus: Stack) -> None:
    async with Load.on(chorus) as load:

        async def something_was_in_flight() -> bool:
            await load.goes_on(20)  # and beyond, or a slow look would find everything settled
            report = await audit(chorus.urls, timeout_seconds=20, republished=chorus.republished)
            assert report.lines() == [], report
            return report.in_flight + report.candidates > 0

        await eventually(something_was_in_flight, within=90)
