"""Use cases take a transaction and a list; doors translate; time and chance come in from outside."""

import ast
from collections.abc import Callable, Iterable

import pytest

from apps import SERVICES
from tests.architecture.code import Module, modules, services_code

TIME_AND_CHANCE = {
    "chassis/web/auth.py": "a door: is this token still valid",
    "chassis/runtime/telemetry.py": "a door: the request's correlation and duration",
    "apps/notifications/gauges.py": "the age of open notifications",
    "apps/notifications/dispatcher.py": "when a channel's server answered, and the jitter of the next attempt",
    "apps/notifications/channels/smtp.py": "how long to wait before the next attempt",
    "apps/users/api.py": "a door: when a token was made",
    "apps/users/limits.py": "how long an attempt must wait",
    "apps/users/passwords.py": "a hash that nobody's password has",
    "apps/users/upkeep.py": "a cause for what nobody asked for",
    "chassis/messaging/consumer.py": "two replicas that retry apart from each other",
    "chassis/messaging/dead_letters.py": "when a message was set aside",
    "chassis/database/transaction.py": "the time and the ids of everything that use cases do",
    "chassis/messaging/message.py": "the id of a pack",
}
"""Where clocks are read and ids and random numbers are made, and what for. Nowhere else."""

CLOCKS = {
    "now": {"datetime"}, "today": {"date", "datetime"}, "utcnow": {"datetime"},
    "time": {"time"}, "time_ns": {"time"}, "monotonic": {"time"}, "perf_counter": {"time"},
    "random": {"random"}, "randint": {"random"}, "choice": {"random"}, "shuffle": {"random"}, "Random": {"random"},
    "token_hex": {"secrets"}, "token_urlsafe": {"secrets"}, "randbits": {"secrets"}, "urandom": {"os"},
    "uuid1": {"", "uuid"}, "uuid4": {"", "uuid"}, "uuid7": {"", "uuid"},
}  # fmt: skip

Rule = Callable[[Iterable[Module]], list[str]]


def reads_clocks(code: Iterable[Module]) -> list[str]:
    """Clocks, random numbers and new ids, outside of their places."""
    return [
        f"{module.path}: {ast.unparse(call)}"
        for module in code
        if module.path not in TIME_AND_CHANCE
        for before, call in module.calls(*CLOCKS)
        if before.rpartition(".")[2] in CLOCKS[ast.unparse(call.func).rpartition(".")[2]]
    ]


def odd_use_cases(code: Iterable[Module]) -> list[str]:
    """Public functions of `use_cases.py` that are not `async def verb(tx: Transaction, many: Sequence[...])`."""
    found = []
    for module in code:
        for function in module.functions():
            if function.name.startswith("_"):
                continue
            hints = [ast.unparse(a.annotation) for a in function.args.args if a.annotation]
            if not (
                isinstance(function, ast.AsyncFunctionDef)
                and len(hints) == 2
                and hints[0] == "Transaction"
                and hints[1].startswith("Sequence[")
                and ast.get_docstring(function)
            ):
                found.append(f"{module.path}: {function.name}({', '.join(hints)})")
    return found


def deciding_subscribers(code: Iterable[Module]) -> list[str]:
    """Subscribers that do more than hand over to one use case."""
    return [
        f"{module.path}: {function.name}"
        for module in code
        for function in module.functions()
        if not ast.get_docstring(function)
        or [type(node) for node in function.body[1:]] != [ast.Expr]
        or not ast.unparse(function.body[1]).startswith("await use_cases.")
    ]


def test_clocks_and_chance_stand_where_they_are_listed() -> None:
    assert reads_clocks(services_code()) == []


def test_every_listed_place_needs_its_clock() -> None:
    listed = [module for module in services_code() if module.path in TIME_AND_CHANCE]
    elsewhere = [Module(f"x/{module.path}", module.tree) for module in listed]
    assert {line.split(":")[0][2:] for line in reads_clocks(elsewhere)} == TIME_AND_CHANCE.keys()


def test_a_use_case_takes_a_transaction_and_a_list() -> None:
    code = [module for module in services_code() if module.path.endswith("/use_cases.py")]
    assert len(code) == len(SERVICES)
    assert odd_use_cases(code) == []


def test_a_subscriber_translates_and_never_decides() -> None:
    code = [module for module in services_code() if module.path.endswith("/subscribers.py")]
    assert len(code) == len(SERVICES)
    assert deciding_subscribers(code) == []


@pytest.mark.parametrize(
    ("rule", "offence"),
    [
        (reads_clocks, "def f(): return datetime.now(UTC)"),
        (reads_clocks, "def f(): return datetime.datetime.now()"),
        (reads_clocks, "def f(): return time.time()"),
        (reads_clocks, "def f(): return uuid7()"),
        (reads_clocks, "def f(): return uuid.uuid4()"),
        (reads_clocks, "def f(): return random.random()"),
        (reads_clocks, "def f(): return secrets.token_hex(4)"),
        (odd_use_cases, "async def f(tx: Transaction, order: Order):\n    'It.'"),
        (odd_use_cases, "async def f(orders: Sequence[Order]):\n    'It.'"),
        (odd_use_cases, "def f(tx: Transaction, orders: Sequence[Order]):\n    'It.'"),
        (odd_use_cases, "async def f(tx: Transaction, orders: Sequence[Order]): pass"),
        (deciding_subscribers, "async def f(tx, heard):\n    'It.'\n    if heard: pass"),
        (
            deciding_subscribers,
            "async def f(tx, heard):\n    'It.'\n    await use_cases.f(tx, heard)\n    await tx.x()",
        ),
        (deciding_subscribers, "async def f(tx, heard): await use_cases.f(tx, heard)"),
    ],
)
def test_an_offence_is_found(rule: Rule, offence: str) -> None:
    assert rule([Module.of("apps/orders/elsewhere.py", offence)])


def test_every_door_is_strict() -> None:
    """Each service's router refuses what its routes do not document."""
    doors = [module for module in modules("apps") if module.path.endswith("/api.py")]
    assert len(doors) == len(SERVICES)
    for module in doors:
        [(_, router)] = module.calls("APIRouter")
        assert "route_class=StrictRoute" in ast.unparse(router), module.path
