"""A service's login may read the topology in the management API, and has no more rights there than it has by AMQP."""

import asyncio
from typing import Any, Final

import httpx
import pytest

from chassis.messaging.addresses import management_api, with_login
from chassis.messaging.differences import LISTS
from ops.management import Administration
from tests.support.fixtures import Install
from tests.support.installation import Installation

Request = tuple[str, str, Any]
"""Method, path and body; VHOST and LOGIN stand for those of the installation."""

GET: Final = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
EVENT: Final = {"properties": {}, "routing_key": "#", "payload": "", "payload_encoding": "string"}
POLICY: Final = {"pattern": "", "definition": {"max-length": 1}, "apply-to": "queues"}
ALL: Final = {"configure": ".*", "write": ".*", "read": ".*"}

CHANGES: Final[dict[str, Request]] = {
    "declare a queue": ("PUT", "queues/VHOST/billing.mine", {"durable": True}),
    "delete its own queue": ("DELETE", "queues/VHOST/billing.order-placed", None),
    "delete its own exchange": ("DELETE", "exchanges/VHOST/billing", None),
    "purge another's queue": ("DELETE", "queues/VHOST/orders.payment-succeeded/contents", None),
    "bind its queue": (
        "POST",
        "bindings/VHOST/e/users/q/billing.order-placed",
        {"routing_key": "#"},
    ),
    "unbind its queue": (
        "DELETE",
        "bindings/VHOST/e/orders/q/billing.order-placed/order-placed.v1",
        None,
    ),
    "publish as orders": ("POST", "exchanges/VHOST/orders/publish", EVENT),
    "publish past every exchange": ("POST", "exchanges/VHOST/amq.default/publish", EVENT),
    "read another's queue": ("POST", "queues/VHOST/orders.payment-succeeded/get", GET),
    "read the journal": ("POST", "queues/VHOST/journal/get", GET),
    "make a policy": ("PUT", "policies/VHOST/mine", POLICY),
    "make an operator policy": ("PUT", "operator-policies/VHOST/mine", POLICY),
    "make a shovel": ("PUT", "parameters/shovel/VHOST/mine", {"value": {}}),
    "make a vhost": ("PUT", "vhosts/mine", {}),
    "make a user": ("PUT", "users/mine", {"password": "x", "tags": "administrator"}),
    "become an administrator": ("PUT", "users/LOGIN", {"password": "x", "tags": "administrator"}),
    "extend its permissions": ("PUT", "permissions/VHOST/LOGIN", ALL),
    "import definitions": ("POST", "definitions/VHOST", {"queues": []}),
}

SECRETS: Final = ("users", "permissions", "definitions", "definitions/VHOST", "parameters", "nodes")


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    return await install_chorus("management_rights")


async def answer(chorus: Installation, request: Request) -> httpx.Response:
    """What the management API answers billing."""
    method, path, body = request
    path = path.replace("VHOST", chorus.name).replace("LOGIN", chorus.login("billing"))
    url = with_login(chorus.servers.rabbitmq_api_url, chorus.login("billing"), chorus.password)
    async with httpx.AsyncClient(**management_api(url)) as api:
        return await api.request(method, path, json=body)


async def defined(chorus: Installation) -> list[Any]:
    """The vhost's definitions, and billing's login with its permissions."""
    login = chorus.login("billing")
    paths = (f"definitions/{chorus.name}", f"users/{login}", f"users/{login}/permissions")

    def read() -> list[Any]:
        with Administration(chorus.servers.rabbitmq_api_url) as api:
            return [api.get(path).raise_for_status().json() for path in paths]

    return await asyncio.to_thread(read)


class TestManagementApi:
    @pytest.mark.parametrize("name", LISTS)
    async def test_a_service_reads_what_it_compares(self, chorus: Installation, name: str) -> None:
        assert (await answer(chorus, ("GET", f"{name}/VHOST", None))).status_code == 200

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    async def test_a_services_login_changes_nothing_by_http(
        self, chorus: Installation, change: Request
    ) -> None:
        before = await defined(chorus)
        refused = await answer(chorus, change)
        assert refused.status_code == 401 or "ACCESS_REFUSED" in refused.text, refused.text
        assert await defined(chorus) == before

    @pytest.mark.parametrize("path", SECRETS)
    async def test_a_services_login_reads_nothing_of_others(
        self, chorus: Installation, path: str
    ) -> None:
        assert (await answer(chorus, ("GET", path, None))).status_code == 401

    async def test_another_vhost_is_closed(self, chorus: Installation) -> None:
        assert (await answer(chorus, ("GET", "queues/%2F", None))).status_code == 401
