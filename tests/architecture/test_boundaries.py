"""Who may begin transactions, publish messages, declare queues, call over HTTP and change the topology."""

import ast
import re
from collections.abc import Callable, Iterable

import pytest

from tests.architecture.code import Module, modules, services_code

MAY_BEGIN = {
    "chassis/database/group_commit.py",
    "chassis/database/pool.py",
    "chassis/messaging/recovery.py",
    "chassis/messaging/relay.py",
}
"""The group committer, the readiness check, the recovery of lost events, and the relay for what it publishes."""

MAY_PUBLISH = {
    "chassis/messaging/relay.py": "self._publisher",
    "ops/dead_letters.py": "self._publisher",
    "ops/event_logs.py": "publisher",
    "ops/journal.py": "publisher",
    "chassis/messaging/dead_letters.py": "self._publisher",
    "chassis/messaging/publisher.py": "target",
}
"""Who publishes to the broker, and the expression that they call `publish` on."""

MAY_MAKE_PUBLISHERS = {
    "chassis/runtime/service.py",
    "ops/recovery.py",
    "ops/repair.py",
    "ops/republish.py",
}
MAY_DECLARE_PASSIVELY = {"chassis/messaging/broker.py", "ops/audit/broker.py"}
"""Who reads the number of messages in a queue: a passive declaration, which creates nothing."""

MAY_CALL_OVER_HTTP = (
    "ops/management.py",
    "ops/differences.py",
    "ops/audit/broker.py",
    "chassis/runtime/topology_watch.py",
    "apps/notifications/channels/",
)
"""Clients of the management API of RabbitMQ, and channels, which may call providers."""

Rule = Callable[[Iterable[Module]], list[str]]
_STATEMENT = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|START TRANSACTION)\b[^a-z]*$")

HTTP_CLIENTS = {"aiohttp", "httpx", "httpx2", "pycurl", "requests", "urllib3"}
HTTP_CLIENTS |= {"urllib.request", "http.client"}


def commits_elsewhere(code: Iterable[Module]) -> list[str]:
    """Code that begins, commits, rolls back, or writes without a transaction, where it must not."""
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
    """Publishing other than `tx.publish`, which writes to the outbox."""
    return [
        f"{module.path}: {before}.publish()"
        for module in code
        for before, _ in module.calls("publish")
        if before != "tx" and before != MAY_PUBLISH.get(module.path)
    ] + [
        f"{module.path}: Publisher"
        for module in code
        if "chassis.messaging.publisher.Publisher" in module.imports()
        if module.path not in MAY_MAKE_PUBLISHERS | MAY_PUBLISH.keys()
    ]


def declares(code: Iterable[Module]) -> list[str]:
    """Code that declares queues, exchanges or bindings while a service runs."""
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
            if module.path in MAY_DECLARE_PASSIVELY:
                continue
            given = {
                keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords
            }
            if given.get("ensure") is not False:
                found.append(f"{module.path}: {before} without ensure=False")
    return found


def calls_over_http(code: Iterable[Module]) -> list[str]:
    """HTTP clients in the code of services."""
    return [
        f"{module.path}: {name}"
        for module in code
        for name in sorted(module.imports() & HTTP_CLIENTS)
        if not module.path.startswith(MAY_CALL_OVER_HTTP)
    ]


def changes_topology(code: Iterable[Module]) -> list[str]:
    """Code that imports what changes the broker's topology."""
    return [
        module.path
        for module in code
        if any(name.startswith("ops.management") for name in module.imports())
    ]


class TestServices:
    def test_only_the_transaction_begins_and_commits(self) -> None:
        assert commits_elsewhere(services_code()) == []

    def test_only_relay_and_dead_letters_publish_to_the_broker(self) -> None:
        assert publishes_elsewhere(services_code()) == []

    def test_nothing_is_declared_by_connecting(self) -> None:
        assert declares(services_code()) == []

    def test_no_service_calls_another(self) -> None:
        assert calls_over_http(services_code()) == []

    def test_the_topology_is_watched_by_get_only(self) -> None:
        [watch] = [m for m in modules("chassis") if m.path == "chassis/runtime/topology_watch.py"]
        others = ("delete", "patch", "post", "put", "request", "send", "stream")
        assert len(list(watch.calls("get"))) == 1
        assert list(watch.calls(*others)) == []

    def test_no_service_changes_the_topology(self) -> None:
        assert changes_topology(services_code()) == []


class TestOps:
    def test_only_replays_of_dead_letters_and_events_publish_to_the_broker(self) -> None:
        assert publishes_elsewhere(modules("ops")) == []

    def test_only_clients_of_the_management_api_call_over_http(self) -> None:
        assert calls_over_http(modules("ops")) == []

    def test_queues_are_declared_over_the_management_api_only(self) -> None:
        assert declares(modules("ops")) == []

    def test_the_command_line_changes_the_topology(self) -> None:
        assert changes_topology(modules("ops"))


@pytest.mark.parametrize(
    ("rule", "offence"),
    [
        (commits_elsewhere, "async def f(c): await c.commit()"),
        (commits_elsewhere, "async def f(c):\n    async with c.transaction(): pass"),
        (commits_elsewhere, "async def f(pool):\n    async with transaction(pool) as tx: pass"),
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
        (calls_over_http, "import httpx"),
        (calls_over_http, "from aiohttp import ClientSession"),
        (calls_over_http, "import urllib.request"),
        (calls_over_http, "from urllib import request, parse\nfrom http import client"),
        (changes_topology, "from ops.management import Administration"),
        (changes_topology, "from ops import management"),
    ],
)  # fmt: skip
def test_an_offence_is_found(rule: Rule, offence: str) -> None:
    assert rule([Module.of("apps/orders/api.py", offence)])


def test_what_is_allowed_is_found_in_its_place() -> None:
    """What the allowed places do is an offence anywhere else."""
    code = {module.path: module for module in modules("chassis", "ops")}
    for path, rule in {
        "chassis/database/transaction.py": commits_elsewhere,
        "chassis/database/group_commit.py": commits_elsewhere,
        "chassis/messaging/relay.py": publishes_elsewhere,
        "chassis/messaging/dead_letters.py": publishes_elsewhere,
        "chassis/messaging/broker.py": declares,
        "ops/dead_letters.py": publishes_elsewhere,
        "ops/event_logs.py": publishes_elsewhere,
        "ops/management.py": calls_over_http,
        "chassis/runtime/topology_watch.py": calls_over_http,
    }.items():
        assert rule([Module("apps/orders/elsewhere.py", code[path].tree)]), path
