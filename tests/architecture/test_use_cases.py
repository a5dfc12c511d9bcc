"""Use cases take a transaction and a list; adapters only translate; times, ids and random numbers are arguments."""

import ast
import importlib
from collections.abc import Callable, Iterable

import pytest

from apps import SERVICES
from tests.architecture.code import Module, services_code

CLOCK_READERS = {
    "chassis/web/auth.py": "whether a token is still valid",
    "chassis/web/context.py": "the correlation id, the trace and the duration of a request",
    "chassis/web/protocol.py": "the correlation id of a request that is refused before it is read",
    "chassis/messaging/consumer.py": "two replicas that retry apart from each other",
    "chassis/messaging/dead_letters.py": "when a message was dead-lettered",
    "chassis/messaging/message.py": "the id of a message batch",
    "chassis/database/transaction.py": "the time and the ids of everything that use cases do",
    "apps/notifications/dispatcher.py": "when a server replied, and the jitter of the next attempt",
    "apps/notifications/channels/mail_server.py": "how long to wait before the next attempt",
    "apps/users/api.py": "when a token was issued",
    "apps/users/keys.py": "the causation of a key rotation",
    "apps/users/operator.py": "the causation of the first operator",
    "apps/users/passwords.py": "a hash that no password has",
    "apps/users/sessions.py": "refresh tokens",
}
"""The files that read clocks or make ids and random numbers, and what for. No other file does."""

CLOCKS = {
    "now": {"datetime"}, "today": {"date", "datetime"}, "utcnow": {"datetime"},
    "time": {"time"}, "time_ns": {"time"}, "monotonic": {"time"}, "perf_counter": {"time"},
    "random": {"random"}, "randint": {"random"}, "choice": {"random"}, "shuffle": {"random"}, "Random": {"random"},
    "token_hex": {"secrets"}, "token_urlsafe": {"secrets"}, "randbits": {"secrets"}, "urandom": {"os"},
    "token_bytes": {"secrets"},
    "uuid1": {"", "uuid"}, "uuid4": {"", "uuid"}, "uuid7": {"", "uuid"},
}  # fmt: skip

Rule = Callable[[Iterable[Module]], list[str]]


def reads_clocks(code: Iterable[Module]) -> list[str]:
    """Clocks, random numbers and new ids in files that are not listed."""
    return [
        f"{module.path}: {ast.unparse(call)}"
        for module in code
        if module.path not in CLOCK_READERS
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


def more_than_declared(code: Iterable[Module]) -> list[str]:
    """Statements of `consumers.py` other than imports and one `SUBSCRIPTIONS` of `Subscription(event, use_case)`."""
    found = []
    for module in code:
        declarations = 0
        for node in module.tree.body[1:]:
            if isinstance(node, ast.Import | ast.ImportFrom):
                continue
            declarations += 1
            if not (_is_declaration(node) and ast.get_docstring(module.tree) and declarations == 1):
                found.append(f"{module.path}: {ast.unparse(node)[:60]}")
        if not declarations:
            found.append(f"{module.path}: no SUBSCRIPTIONS")
    return found


def _is_declaration(node: ast.stmt) -> bool:
    """`SUBSCRIPTIONS: ... = (Subscription(Event, use_case), ...)`; projection, projector and fallback may follow."""
    return (
        isinstance(node, ast.AnnAssign)
        and ast.unparse(node.target) == "SUBSCRIPTIONS"
        and isinstance(node.value, ast.Tuple)
        and all(
            isinstance(one, ast.Call)
            and ast.unparse(one.func) == "Subscription"
            and 2 <= len(one.args) <= 4
            and all(keyword.arg == "fallback" for keyword in one.keywords)
            and all(isinstance(a, ast.Name) for a in (*one.args, *(k.value for k in one.keywords)))
            for one in node.value.elts
        )
    )


class TestClocks:
    def test_only_listed_files_read_clocks_and_make_ids(self) -> None:
        assert reads_clocks(services_code()) == []

    def test_every_listed_file_needs_its_clock(self) -> None:
        listed = [module for module in services_code() if module.path in CLOCK_READERS]
        elsewhere = [Module(f"x/{module.path}", module.tree) for module in listed]
        assert {line.split(":")[0][2:] for line in reads_clocks(elsewhere)} == CLOCK_READERS.keys()


class TestServices:
    """The same files hold the same things in each service."""

    def test_use_cases_take_a_transaction_and_a_list(self) -> None:
        code = files("use_cases.py")
        assert len(code) == len(SERVICES)
        assert odd_use_cases(code) == []

    def test_consumers_hold_nothing_but_the_declaration(self) -> None:
        code = files("consumers.py")
        assert len(code) == len(SERVICES)
        assert more_than_declared(code) == []

    @pytest.mark.parametrize("service", SERVICES)
    def test_events_are_handled_by_use_cases(self, service: str) -> None:
        """Or by what the chassis does for every service; a handler's docstring is what AsyncAPI shows."""
        for one in importlib.import_module(f"apps.{service}.consumers").SUBSCRIPTIONS:
            for use_case in (
                one.handler,
                one.projector or one.handler,
                one.fallback or one.handler,
            ):
                places = (f"apps.{service}.use_cases", f"apps.{service}.corrections")
                assert use_case.__module__ in {*places, "chassis.web.auth"}
                assert use_case.__doc__

    def test_routers_are_strict(self) -> None:
        """They refuse what their routes do not document."""
        code = files("api.py")
        assert len(code) == len(SERVICES)
        for module in code:
            [(_, router)] = module.calls("APIRouter")
            assert "route_class=StrictRoute" in ast.unparse(router), module.path

    def test_composition_roots_hold_compose_and_the_application(self) -> None:
        """`main.py` makes what the service consists of, and decides nothing."""
        code = files("main.py")
        assert len(code) == len(SERVICES)
        for module in code:
            assert {function.name for function in module.functions()} <= {"compose"}, module.path
            assert len(list(module.calls("create_app"))) == 1, module.path


def files(name: str) -> list[Module]:
    """The file of this name of each service."""
    return [
        module
        for module in services_code()
        if module.path in {f"apps/{s}/{name}" for s in SERVICES}
    ]


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
        (more_than_declared, "'It.'\nfrom x import y"),
        (more_than_declared, "'It.'\nSUBSCRIPTIONS: S = tuple(found())"),
        (more_than_declared, "'It.'\nSUBSCRIPTIONS: S = (Subscription(E, partial(f, 1)),)"),
        (
            more_than_declared,
            "'It.'\nSUBSCRIPTIONS: S = (Subscription(E, lambda tx, r: f(tx, r)),)",
        ),
        (more_than_declared, "'It.'\nSUBSCRIPTIONS: S = (Subscription(E, f),)\nx = 1"),
        (more_than_declared, "'It.'\nSUBSCRIPTIONS: S = (Subscription(E, f),)\ndef f(): pass"),
    ],
)
def test_an_offence_is_found(rule: Rule, offence: str) -> None:
    assert rule([Module.of("apps/orders/elsewhere.py", offence)])
