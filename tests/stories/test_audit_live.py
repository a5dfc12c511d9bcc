"""`audit` on real databases: what is well passes, and each way to spoil a table is found by the right invariant.

Each test spoils copies of databases in which a few orders were paid, refused, refunded and cancelled.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest

from ops.audit import Attempt, CannotLook, History, Urls, audit, auditor, suspects
from ops.audit.findings import Finding
from ops.audit.invariants import judge
from tests.stories.load import Load
from tests.stories.spoiling import SPOILED
from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.forked import ForkedService
from tests.support.processes import Processes

PATIENCE: Final = 0.35
"""Seconds: three looks."""


@dataclass(frozen=True)
class Scene:
    """An installation at rest, whose services have ended, and what its customers were answered."""

    admin_url: str
    urls: Urls
    history: History

    @asynccontextmanager
    async def spoiled(self, spoiling: Mapping[str, str]) -> AsyncIterator[Urls]:
        """Where copies of the databases of some services are, in each of which a script has been run."""
        databases = dict(self.urls.databases)
        connection = await asyncpg.connect(self.admin_url)
        made = []
        try:
            for service, script in spoiling.items():
                url = urlsplit(databases[service])
                made.append(name := f"spoiled_{next(_numbers)}")
                await connection.execute(f'CREATE DATABASE {name} TEMPLATE "{url.path[1:]}"')
                databases[service] = urlunsplit(url._replace(path=f"/{name}"))
                await run(urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}")), script)
            yield replace(self.urls, databases=databases)
        finally:
            for name in made:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await connection.close()


_numbers = itertools.count(1)


async def run(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


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


async def test_what_is_well_passes(scene: Scene) -> None:
    report = await audit(scene.urls, scene.history, at_rest=True, patience=PATIENCE)
    assert report.lines() == []
    assert report.clean
    assert all(one.rows for one in report.invariants)


@pytest.mark.parametrize(("invariant", "spoiling"), SPOILED.values(), ids=SPOILED)
async def test_whatever_is_spoiled_is_found(
    scene: Scene, invariant: int, spoiling: Mapping[str, str]
) -> None:
    async with scene.spoiled(spoiling) as urls:
        report = await audit(urls, scene.history, at_rest=True, patience=PATIENCE)
    assert invariant in report.violated, report.lines()


def test_every_invariant_is_spoiled_here() -> None:
    assert {invariant for invariant, _ in SPOILED.values()} == set(range(1, 10))


ONLY_BY: Final = {
    "ACCOUNTS": "an account is in another version",
    "TRANSFERS": "a transfer goes elsewhere",
    "UNBALANCED": "the view forgets what comes in from orders",
    "CHARGES": "a cancelled order was kept",
    "DEBITED": "an order was debited twice, and the ledger follows",
    "NOT_CANCELLED": "it was not cancelled",
    "ORDERS": "an order had two outcomes",
    "LETTERS": "a letter goes to a stranger",
    "UNHEARD": "a key was heard by all but one",
    "DECIDED": "an order was decided otherwise",
    "WRITTEN": "a letter is missing",
    "HEARD": "two who hear the same heard something else",
}
"""What each query for suspects finds that no other one does."""


@pytest.mark.parametrize(("query", "spoiled"), ONLY_BY.items(), ids=ONLY_BY)
async def test_no_query_for_suspects_is_idle(
    scene: Scene, query: str, spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    invariant, spoiling = SPOILED[spoiled]
    real = getattr(suspects, query)
    blind: Any = () if query == "HEARD" else real[:1] * 2
    if isinstance(real, str):
        blind = f"SELECT * FROM ({real}) AS seen WHERE false"
    monkeypatch.setattr(suspects, query, blind)
    async with scene.spoiled(spoiling) as urls:
        report = await audit(urls, at_rest=True, patience=0)
    assert invariant not in report.violated


Change = Callable[[list[Attempt]], object]

ANSWERED: Final[dict[str, Change]] = {
    "an order was accepted and is lost": lambda a: a.append(Attempt(order_id=UUID(int=7))),
    "an order costs something else": lambda a: a.__setitem__(0, replace(a[0], total=1)),
    "an order is another's": lambda a: a.__setitem__(0, replace(a[0], user_id=UUID(int=7))),
    "two wishes got one order": lambda a: a.extend(
        [Attempt(order_id=a[0].order_id), Attempt(order_id=a[0].order_id)]
    ),
    "one wish got two orders": lambda a: a.__setitem__(1, replace(a[1], key=a[0].key)),
    "a refused request has an order": lambda a: a.__setitem__(
        0, replace(a[0], order_id=None, refused=True)
    ),
    "an order was never asked for": lambda a: a.pop(0),
}


@pytest.mark.parametrize("change", ANSWERED.values(), ids=ANSWERED)
async def test_an_answer_that_was_not_true_is_found(scene: Scene, change: Change) -> None:
    attempts = list(scene.history.attempts)
    change(attempts)
    report = await audit(scene.urls, History(attempts), at_rest=True, patience=PATIENCE)
    assert report.violated == [3], report.lines()


async def test_a_request_without_an_answer_may_have_an_order(scene: Scene) -> None:
    attempts = [replace(attempt, order_id=None) for attempt in scene.history.attempts]
    report = await audit(scene.urls, History(attempts), at_rest=True, patience=PATIENCE)
    assert report.lines() == []


async def test_a_database_that_does_not_answer_is_no_finding(scene: Scene) -> None:
    databases = {**scene.urls.databases, "orders": "postgresql://nobody@127.0.0.1:1/nothing"}
    with pytest.raises(CannotLook, match="orders"):
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
        report = await audit(urls, patience=PATIENCE)
    assert report.in_flight == 1
    assert report.violated == violated


async def test_what_is_right_at_the_next_look_was_only_on_its_way(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    first: list[bool] = []

    def judged(*arguments: Any) -> dict[int, list[Finding]]:
        found = judge(*arguments)
        first.append(any(found.values()))
        looked.set()
        return found

    monkeypatch.setattr(auditor, "judge", judged)
    spoil = "UPDATE orders SET status = 'rejected' WHERE status = 'paid'"
    mend = "UPDATE orders SET status = 'paid' WHERE id IN (SELECT id FROM orders WHERE reason IS NULL AND version = 2)"
    async with scene.spoiled({"orders": spoil}) as urls:
        auditing = asyncio.create_task(audit(urls, at_rest=True, patience=60))
        await looked.wait()
        name = urlsplit(urls.databases["orders"]).path
        await run(urlunsplit(urlsplit(scene.admin_url)._replace(path=name)), mend)
        report = await auditing
    assert first[0]
    assert report.lines() == []
    assert report.looks > 1


async def test_a_system_at_work_is_audited_without_a_finding(chorus: Stack) -> None:
    async with Load.on(chorus) as load:

        async def something_was_on_its_way() -> bool:
            await load.goes_on(20)  # and beyond, or a slow look would find everything settled
            report = await audit(chorus.urls, patience=20)
            assert report.lines() == [], report
            return report.in_flight + report.suspects > 0

        await eventually(something_was_on_its_way, within=90)
