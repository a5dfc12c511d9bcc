"""The code path of one paid order, from the route to the e-mail: every function that runs for it is counted.

Three services run in this process. The last of some orders are traced, so that all connections are open, and what runs
for each of them counts: periodic tasks and connections that are renewed are left out.
"""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import PurePosixPath
from typing import Final

import pytest
from fastapi import FastAPI

from events.users import UserRegistered
from tests.architecture.pages import function_links, section
from tests.support.builders import a_user
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.tracing import ROOT, Trace, traced

SERVICES: Final = ("billing", "orders", "notifications")

WARM_UP: Final = 8
"""Orders before those that are traced: as many as notifications has connections to the mail server."""

TRACED: Final = 4

BUSINESS: Final = {"api", "consumers", "use_cases", "models", "schemas", "problems"}
"""The files of a service that hold its business rules. Others send e-mail, or limit admission."""

PERIODIC: Final = {"backlog", "gauges", "health", "late_orders", "retention", "supervisor"}
"""Files of tasks that run beside the orders, whether or not there are any."""

PERIODIC_METHODS: Final = {"Verifier.poll", "Verifier._load"}
"""Such tasks in files that the path of an order needs. On a slow machine they run within each order."""

LIMITS: Final = {"files": 25, "lines": 1200, "business": 300}
"""What a reader of one order's path reads at most. Blank lines and docstrings do not count."""


def an_app(service: str) -> FastAPI:
    """An application of this test's own: other tests run the one of `apps.<service>.main`."""
    path = ROOT / "apps" / service / "main.py"
    spec = importlib.util.spec_from_file_location(f"order_path_{service}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: FastAPI = module.app
    return app


@pytest.fixture(scope="module")
async def order(install_chorus: Install, mail: MailSink) -> AsyncIterator[Trace]:
    """What runs for one order."""
    installation = await install_chorus("order_path")
    settings = {"CHORUS_SMTP_PORT": str(mail.port)}
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(
                RunningService(name, an_app(name), installation).running(settings)
            )
            for name in SERVICES
        ]
        yield await traced_order(*services, mail=mail)


async def traced_order(
    billing: RunningService,
    orders: RunningService,
    notifications: RunningService,
    *,
    mail: MailSink,
) -> Trace:
    ada = a_user()
    registered = await billing.receives(UserRegistered(user=ada))
    for service in (billing, orders, notifications):
        await service.has_processed(*registered)
    token = billing.signer.token(ada.id)
    async with billing.http(token=token) as client:
        answer = await client.post(f"/account/{ada.id}/deposit", json={"amount": "100.00"})
        assert answer.status_code == 201
    async with orders.http(token=token) as client:
        traces = []
        for count in range(1, WARM_UP + TRACED + 1):
            with traced() as trace:
                answer = await client.post("/order/create", json={"totalPrice": "1.00"})
                assert answer.status_code == 201
                await mail.gets(ada.email, count)
                for service in (orders, billing, notifications):
                    await service.is_quiet()
            traces.append(trace)
    return Trace.common(traces[WARM_UP:]).without(*PERIODIC_METHODS)


class TestOrderPath:
    async def test_the_limits_hold(self, order: Trace) -> None:
        lines = {
            file: count
            for file, count in order.lines().items()
            if PurePosixPath(file).stem not in PERIODIC
        }
        business = sum(
            count
            for file, count in lines.items()
            if file.startswith("events/")
            or (file.startswith("apps/") and PurePosixPath(file).stem in BUSINESS)
        )
        found = {"files": len(lines), "lines": sum(lines.values()), "business": business}
        detail = "\n".join(f"{count:5} {file}" for file, count in lines.items())
        over = {name for name, limit in LIMITS.items() if found[name] > limit}
        assert not over, f"{found}, limits {LIMITS}\n{detail}"

    async def test_the_steps_that_the_architecture_page_lists_run(self, order: Trace) -> None:
        page = ROOT / "docs/architecture.md"
        steps = list(function_links(page, section(page.read_text(), "One order")))
        assert len(steps) > 15
        assert [name for name, file in steps if name not in order.ran.get(file, set())] == []
