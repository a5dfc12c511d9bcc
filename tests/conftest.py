"""One PostgreSQL and one RabbitMQ for the whole run, also when pytest-xdist spreads it over several processes."""

import signal
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import Servers, running_servers

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_WITHOUT_SERVERS = ("unit", "contracts", "architecture")
_LONGEST = (
    "chaos/test_chaos.py",
    "stories/test_crash_points.py",
    "simulation/test_simulation.py",
    "stories/test_mutants.py",
    "stories/test_cluster.py",
    "stories/test_replicas.py",
    "stories/test_rebuild.py",
    "stories/test_restored.py",
    "integration/ops/test_new_subscriber.py",
    "integration/apps/notifications/test_replicas.py",
    "integration/apps/test_openapi_requests.py",
)
"""Files that take longest, longest first. A file that begins last must be short, or one processor waits for it."""

_cleanup = pytest.StashKey[ExitStack]()
_servers = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_cleanup] = ExitStack()
    # Asked to end by the system: leave as after Ctrl-C, with nothing left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    turns = {tests / name: turn for turn, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: turns.get(item.path, len(turns)))  # the others stay in their order


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_cleanup].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: "WorkerController") -> None:
    """pytest-xdist asks before it starts a worker: the servers' addresses go along."""
    if _may_need_servers(node.config):
        node.workerinput["servers"] = asdict(_start_once(node.config))


def _may_need_servers(config: pytest.Config) -> bool:
    tests = Path(__file__).parent
    free = [tests / name for name in _WITHOUT_SERVERS]
    asked = [
        (config.invocation_params.dir / argument.split("::")[0]).resolve()
        for argument in config.args
    ]
    return not all(any(path.is_relative_to(folder) for folder in free) for path in asked)


def _start_once(config: pytest.Config) -> Servers:
    if _servers not in config.stash:
        config.stash[_servers] = config.stash[_cleanup].enter_context(running_servers())
    return config.stash[_servers]


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """Where PostgreSQL and RabbitMQ answer. They are started by the first test that needs them."""
    worker: dict[str, dict[str, object]] | None = getattr(request.config, "workerinput", None)
    if worker is None:
        return _start_once(request.config)
    if "servers" not in worker:
        raise RuntimeError(f"tests in {', '.join(_WITHOUT_SERVERS)} do without servers")
    return Servers(**worker["servers"])  # type: ignore[arg-type]
