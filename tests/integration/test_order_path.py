"""The way of one paid order, from its route to its e-mail, is short enough to be read."""

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
from fastapi import FastAPI

from events.users import UserRegistered
from tests.support.builders import a_user
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.tracing import ROOT, Trace, traced

SERVICES: Final = ("billing", "orders", "notifications")


def an_app(service: str) -> FastAPI:
    """An application of its own: other tests run the one that `main` has made."""
    path = ROOT / "apps" / service / "main.py"
    spec = importlib.util.spec_from_file_location(f"order_path_{service}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: FastAPI = module.app
    return app


@pytest.fixture
async def trace(install_chorus: Install, mail: MailSink) -> Trace:
    installation = await install_chorus("order_path")
    settings = {"CHORUS_SMTP_PORT": str(mail.port)}
    async with AsyncExitStack() as stack:
        billing, orders, notifications = [
            await stack.enter_async_context(
                RunningService(name, an_app(name), installation).running(settings)
            )
            for name in SERVICES
        ]
        ada = a_user()
        registered = await billing.receives(UserRegistered(user=ada))
        for service in (billing, orders, notifications):
            await service.has_heard(*registered)
        async with billing.http(ada) as client:
            paid_in = await client.post(f"/account/{ada.id}/deposit", json={"amount": "100.00"})
            assert paid_in.status_code == 201
        async with orders.http(ada, token=billing.signer.token(ada.id)) as client:
            for count in (1, 2):
                with traced("apps", "chassis", "events") as found:
                    answer = await client.post("/order/create", json={"totalPrice": "30.00"})
                    assert answer.status_code == 201
                    await mail.gets(ada.email, count)
                    for service in (orders, billing, notifications):
                        await service.is_quiet()
        return found


async def test_x(trace):
    from tests.support.tracing import Trace
    import pickle; pickle.dump(trace, open("/tmp/trace.pkl","wb"))
    lines = trace.lines()
    for f, n in lines.items():
        print(f, n, sorted(trace.names(f)))
    print(len(lines), sum(lines.values()), sum(n for f, n in lines.items() if not f.startswith("chassis")))
    assert 0
