"""One place commits, one publishes, one declares; and no service asks another for anything."""

import ast
import re
from collections.abc import Callable, Iterable

import pytest

from tests.architecture.code import Module, modules, services_code

MAY_BEGIN = {"chassis/database/group_commit.py", "chassis/messaging/relay.py"}
"""Who begins a transaction: the group committer, and the relay for the rows it moves."""

MAY_PUBLISH = {
    "chassis/messaging/relay.py": "self._publisher",
    "ops/dead_letters.py": "self._publisher",
    "chassis/messaging/dead_letters.py": "self._publisher",
    "chassis/messaging/publisher.py": "target",
}
MAKES_PUBLISHERS = {"chassis/runtime/service.py"}
ASKS = {"ops/audit/broker.py", "chassis/messaging/broker.py"}
"""Who asks how many messages lie in a queue: a passive declaration, which makes nothing."""

Rule = Callable[[Iterable[Module]], list[str]]
_STATEMENT = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|START TRANSACTION)\b[^a-z]*$")

HTTP_CLIENTS = {"aiohttp", "httpx", "httpx2", "pycurl", "requests", "urllib3"}
HTTP_CLIENTS |= {"urllib.request", "http.client"}


def commits_elsewhere(code: Iterable[Module]) -> list[str]:
    """Whatever begins, commits, rolls back, or writes without a transaction, outside of the one place that may."""
    ways = ("begin", "begin_nested", "commit", "rollback", "savepoint", "transaction")
    found = []
    for module in code:
        if module.path == "chassis/database/transaction.py":
            continue
        for before, call in module.calls(*ways):
            if before or module.path not in MAY_BEGIN:
                found.append(f"{module.path}: {ast.unparse(call)}")
        for before, call in module.calls("execute", "executemany", "copy_records_to_table"):
            if before.endswith("pool"):
                found.append(f"{module.path}: {ast.unparse(call)}")
        found += [f"{module.path}: {text}" for text in module.texts() if _STATEMENT.match(text)]
    return found


def publishes_elsewhere(code: Iterable[Module]) -> list[str]:
    """Publishing that is not a use case's `tx.publish`, which writes to the outbox."""
    return [
        f"{module.path}: {before}.publish()"
        for module in code
        for before, _ in module.calls("publish")
        if before != "tx" and before != MAY_PUBLISH.get(module.path)
    ] + [
        f"{module.path}: Publisher"
        for module in code
        if "chassis.messaging.publisher.Publisher" in module.imports()
        if module.path not in MAKES_PUBLISHERS | MAY_PUBLISH.keys()
    ]


def declares(code: Iterable[Module]) -> list[str]:
    """Queues, exchanges and bindings that come to be by connecting."""
    ways = (
        "declare_queue", "declare_exchange", "queue_declare", "exchange_declare",
        "queue_bind", "exchange_bind", "queue_delete", "exchange_delete",
    )  # fmt: skip
    found = [f"{module.path}: {before}" for module in code for before, _ in module.calls(*ways)]
    for module in code:
        for _, call in module.calls("RabbitQueue", "RabbitExchange"):
            given = {
                keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords
            }
            if given.get("declare") is not False:
                found.append(f"{module.path}: {call.args and 'a queue'} without declare=False")
        for before, call in module.calls("get_exchange", "get_queue"):
            if module.path in ASKS:
                continue
            given = {
                keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords
            }
            if given.get("ensure") is not False:
                found.append(f"{module.path}: {before} without ensure=False")
    return found


def asks_over_http(code: Iterable[Module]) -> list[str]:
    """Clients for HTTP in what a service runs."""
    return [
        f"{module.path}: {name}"
        for module in code
        for name in sorted(module.imports() & HTTP_CLIENTS)
        if module.path != "ops/management.py"
    ]


def administers(code: Iterable[Module]) -> list[str]:
    """Who may change the broker's topology."""
    return [
        module.path
        for module in code
        if any(name.startswith("ops.management") for name in module.imports())
    ]


def test_only_the_transaction_begins_and_commits() -> None:
    assert commits_elsewhere(services_code()) == []


def test_only_relay_parking_and_replay_speak_to_the_broker() -> None:
    assert publishes_elsewhere(services_code()) == []


def test_nothing_is_declared_by_connecting() -> None:
    assert declares(modules("events", "apps")) == []


def test_no_service_asks_another() -> None:
    assert asks_over_http(services_code()) == []


def test_only_the_command_line_changes_the_topology() -> None:
    assert administers(services_code()) == []
    assert administers(modules("ops"))


@pytest.mark.parametrize(
    ("rule", "offence"),
    [
        (commits_elsewhere, "async def f(c): await c.commit()"),
        (commits_elsewhere, "async def f(c):\n    async with c.transaction(): pass"),
        (commits_elsewhere, "async def f(pool):\n    async with begin(pool) as tx: pass"),
        (commits_elsewhere, "async def f(s):\n    async with s.begin(): pass"),
        (commits_elsewhere, "async def f(c): await c.execute('COMMIT')"),
        (commits_elsewhere, "async def f(self): await self._pool.execute('DELETE FROM inbox')"),
        (publishes_elsewhere, "async def f(broker): await broker.publish({})"),
        (publishes_elsewhere, "async def f(self): await self._publisher.publish([])"),
        (publishes_elsewhere, "from chassis.messaging.publisher import Publisher"),
        (declares, "async def f(b): await b.declare_queue('q')"),
        (declares, "async def f(c): await c.exchange_declare('e')"),
        (declares, "q = RabbitQueue('q')"),
        (declares, "q = RabbitQueue('q', declare=True)"),
        (declares, "async def f(c): await c.get_exchange('e')"),
        (asks_over_http, "import httpx"),
        (asks_over_http, "from aiohttp import ClientSession"),
        (asks_over_http, "import urllib.request"),
        (asks_over_http, "from urllib import request, parse\nfrom http import client"),
        (administers, "from ops.management import Administration"),
        (administers, "from events.bus import administration"),
    ],
)  # fmt: skip
def test_an_offence_is_found(rule: Rule, offence: str) -> None:
    assert rule([Module.of("apps/orders/api.py", offence)])


def test_what_is_allowed_is_found_in_its_place() -> None:
    """The rules look at the right names: what the allowed places do is an offence anywhere else."""
    bus = {module.path: module for module in modules("chassis/messaging")}
    for path, rule in {
        "chassis/database/transaction.py": commits_elsewhere,
        "chassis/database/group_commit.py": commits_elsewhere,
        "chassis/messaging/relay.py": publishes_elsewhere,
        "chassis/messaging/dead_letters.py": publishes_elsewhere,
        "ops/management.py": asks_over_http,
    }.items():
        assert rule([Module("apps/orders/elsewhere.py", bus[path].tree)])
