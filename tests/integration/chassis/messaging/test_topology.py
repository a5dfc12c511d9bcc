"""The topology on the broker is that of the code, and each service has exactly the permissions that it needs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelInvalidStateError

from apps import SERVICES
from chassis.messaging.topology import JOURNAL, Queue, Topology, dead_letter_exchange
from chassis.runtime.settings import settings
from ops.audit.access import broker_auditor, urls_of
from ops.management import Administration, TopologyConflictError
from ops.migrate import apply_topology, create_database, upgrade_database
from ops.subscriptions import TOPOLOGY
from tests.support.broker import Broker
from tests.support.fixtures import Install
from tests.support.installation import Installation, environment


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    """All four services, none of them running."""
    return await install_chorus("rights")


def live(installation: Installation) -> dict[str, Any]:
    with Administration(installation.servers.rabbitmq_api_url) as broker:
        definitions = broker.get(f"definitions/{installation.name}").raise_for_status()
    found: dict[str, Any] = definitions.json()
    return found


def _apply(installation: Installation) -> None:
    with Administration(installation.servers.rabbitmq_api_url) as broker:
        users = {service: installation.amqp_url(service) for service in installation.services}
        broker.apply(TOPOLOGY, users)


def _bindings(installation: Installation, queue: str) -> list[dict[str, Any]]:
    with Administration(installation.servers.rabbitmq_api_url) as broker:
        found: list[dict[str, Any]] = broker.get(
            f"queues/{installation.name}/{queue}/bindings"
        ).json()
    return found


def _rights(installation: Installation) -> dict[str, dict[str, str]]:
    """The permissions of each user in the vhost, without its administrator."""
    url = f"{installation.servers.rabbitmq_api_url}/api/vhosts/{installation.name}/permissions"
    answer = httpx.get(url, trust_env=False)
    administrator = urlsplit(url).username
    return {
        right["user"]: _without(right, "user", "vhost")
        for right in answer.raise_for_status().json()
        if right["user"] != administrator
    }


def _without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


@pytest.fixture
async def connection(chorus: Installation) -> AsyncIterator[AbstractConnection]:
    """A connection to the broker as billing."""
    connection = await aio_pika.connect(chorus.amqp_url("billing"))
    yield connection
    await connection.close()


Attempt = Callable[[AbstractChannel], Awaitable[object]]


async def _publish(channel: AbstractChannel, exchange: str, key: str) -> object:
    target = await channel.get_exchange(exchange, ensure=False)
    return await target.publish(aio_pika.Message(b"{}"), key)


async def _consume(channel: AbstractChannel, queue: str) -> object:
    return await (await channel.get_queue(queue, ensure=False)).consume(_ignore)


async def _ignore(message: AbstractIncomingMessage) -> None:
    """Leave it unacknowledged: it is requeued when the connection is closed."""


async def _bind(channel: AbstractChannel, queue: str, exchange: str) -> object:
    return await (await channel.get_queue(queue, ensure=False)).bind(exchange, "#")


async def _purge(channel: AbstractChannel, queue: str) -> object:
    return await (await channel.get_queue(queue, ensure=False)).purge()


FORBIDDEN: dict[str, Attempt] = {
    "declare a queue": lambda channel: channel.declare_queue("billing.mine"),
    "declare a queue without a name": lambda channel: channel.declare_queue(exclusive=True),
    "declare an exchange": lambda channel: channel.declare_exchange("billing-2", "topic"),
    "delete its own queue": lambda channel: channel.queue_delete("billing.order-placed"),
    "delete its own exchange": lambda channel: channel.exchange_delete("billing"),
    "bind its own queue": lambda channel: _bind(channel, "billing.order-placed", "users"),
    "publish as orders": lambda channel: _publish(channel, "orders", "order-placed.v1"),
    "publish as users": lambda channel: _publish(channel, "users", "signing-key-published.v1"),
    "publish past every exchange": lambda channel: _publish(channel, "", "orders.order-placed"),
    "publish to a built-in exchange": lambda channel: _publish(channel, "amq.topic", "#"),
    "read another's queue": lambda channel: _consume(channel, "orders.payment-succeeded"),
    "read another's dead letters": lambda channel: _consume(channel, "orders.dead"),
    "read the journal": lambda channel: _consume(channel, JOURNAL),
    "empty another's queue": lambda channel: _purge(channel, "orders.payment-succeeded"),
}


STATEMENTS = {
    "change the ledger": "UPDATE transfers SET amount = 1",
    "delete from the ledger": "DELETE FROM transfers",
    "empty the ledger": "TRUNCATE transfers",
    "drop a table": "DROP TABLE transfers",
    "delete accounts": "DELETE FROM accounts",
    "delete charges": "DELETE FROM charges",
    "change a signing key": "UPDATE signing_keys SET x = ''",
    "make a table": "CREATE TABLE mine (id integer)",
    "make a schema": "CREATE SCHEMA mine",
    "make a trigger": "CREATE TRIGGER mine BEFORE INSERT ON accounts EXECUTE FUNCTION now()",
    "become somebody else": "SET ROLE postgres",
    "read files": "SELECT pg_read_file('/etc/passwd')",
    "make a role": "CREATE ROLE mine",
}


class TestTopology:
    """The declared topology."""

    def test_the_broker_has_the_topology_of_the_code_and_nothing_else(
        self,
        chorus: Installation,
    ) -> None:
        found, wanted = live(chorus), TOPOLOGY
        assert {
            exchange["name"]: _without(exchange, "name", "vhost") for exchange in found["exchanges"]
        } == {
            name: {
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name in wanted.exchanges
        }
        assert {
            queue["name"]: _without(queue, "name", "vhost", "type") for queue in found["queues"]
        } == {
            queue.name: {"durable": True, "auto_delete": False, "arguments": queue.arguments}
            for queue in wanted.queues
        }
        assert sorted(
            (b["source"], b["routing_key"], b["destination_type"], b["destination"], b["arguments"])
            for b in found["bindings"]
        ) == sorted(
            (exchange, key, "queue", queue.name, {})
            for queue in wanted.queues
            for exchange, key in queue.bindings
        )
        auditor = {broker_auditor(chorus.name): dict.fromkeys(("configure", "write", "read"), "^$")}
        assert _rights(chorus) == auditor | {
            chorus.login(service): wanted.permissions(service) for service in SERVICES
        }

    async def test_applying_the_topology_again_changes_nothing(self, chorus: Installation) -> None:
        before = live(chorus), _rights(chorus)
        _apply(chorus)
        assert (live(chorus), _rights(chorus)) == before
        for service in SERVICES:
            await create_database(chorus.servers.database_admin_url, chorus.database_url(service))
            await asyncio.to_thread(
                upgrade_database,
                chorus.servers.database_admin_url,
                service,
                chorus.database_url(service),
            )

    async def test_bindings_that_are_not_declared_are_removed(self, chorus: Installation) -> None:
        """An earlier release bound the journal to everything. Queues that others have made stay as they are."""
        before = live(chorus)["bindings"]
        broker = Broker(chorus.amqp_admin_url)
        await broker.open()
        try:
            trace = await broker.channel.declare_queue("trace", exclusive=True)
            await trace.bind("orders", "#")
            journal = await broker.channel.get_queue(JOURNAL, ensure=False)
            for exchange, key in (("orders", "#"), ("users", "a key/with %")):
                await journal.bind(exchange, key)
            await asyncio.to_thread(_apply, chorus)
            assert [b for b in live(chorus)["bindings"] if b["destination"] != "trace"] == before
            [bound] = [b for b in _bindings(chorus, "trace") if b["source"]]
            assert bound["routing_key"] == "#"
        finally:
            await broker.close()

    def test_a_queue_with_other_arguments_is_refused_by_name(self, chorus: Installation) -> None:
        other = Queue("billing.order-placed", "billing", {"x-queue-type": "quorum"}, ())
        before = live(chorus)
        with (
            Administration(chorus.servers.rabbitmq_api_url) as broker,
            pytest.raises(TopologyConflictError, match=r"billing\.order-placed"),
        ):
            broker.apply(Topology((), (other,)), {"billing": chorus.amqp_url("billing")})
        assert live(chorus) == before

    def test_what_the_broker_refuses_for_another_reason_is_no_conflict(
        self, chorus: Installation
    ) -> None:
        """RabbitMQ 3.10 answers with 400 as well while it is starting."""
        other = Queue("unknown", "billing", {"x-max-length": "many"}, ())
        with (
            Administration(chorus.servers.rabbitmq_api_url) as broker,
            pytest.raises(httpx.HTTPStatusError, match="400"),
        ):
            broker.apply(Topology((), (other,)), {"billing": chorus.amqp_url("billing")})

    async def test_addresses_of_several_nodes_are_accepted(
        self,
        chorus: Installation,
    ) -> None:
        before = live(chorus)
        nodes = {
            f"CHORUS_AMQP_URL_{service.upper()}": f"{chorus.amqp_url(service)}, {chorus.amqp_url(service)}"
            for service in SERVICES
        }
        with environment(dict(chorus.environment) | nodes):
            await asyncio.to_thread(apply_topology, settings())
            assert urls_of(settings()).vhost == chorus.name
        assert live(chorus) == before


class TestPermissions:
    """What a service's logins may do on the broker and in the databases."""

    @pytest.mark.parametrize("attempt", FORBIDDEN.values(), ids=FORBIDDEN.keys())
    async def test_a_services_broker_user_cannot(
        self, connection: AbstractConnection, attempt: Attempt
    ) -> None:
        channel = await connection.channel()
        with pytest.raises((ChannelAccessRefused, ChannelInvalidStateError)) as refused:
            # A publish is refused by closing the channel, before its confirm.
            async with asyncio.timeout(20):
                await attempt(channel)
        if not isinstance(refused.value, ChannelAccessRefused):
            assert "ACCESS_REFUSED" in str(refused.value)

    async def test_a_services_broker_user_can_publish_to_its_exchange_and_read_its_queues(
        self,
        connection: AbstractConnection,
    ) -> None:
        channel = await connection.channel()
        await _publish(channel, "billing", "account-opened.v1")
        await _publish(channel, dead_letter_exchange("billing"), "billing")
        for queue in ("billing.order-placed", "billing.dead"):
            await _consume(channel, queue)
        await _purge(channel, "billing.dead")

    async def test_a_services_broker_user_cannot_enter_another_vhost(
        self, chorus: Installation, install_chorus: Install
    ) -> None:
        other = await install_chorus("only_billing", "billing")
        url = chorus.amqp_url("billing").removesuffix(chorus.name) + other.name
        with pytest.raises(AMQPError):
            await aio_pika.connect(url)

    @pytest.mark.parametrize("service", SERVICES)
    async def test_a_services_role_can_connect_to_no_database_but_its_own(
        self, chorus: Installation, service: str
    ) -> None:
        own = await asyncpg.connect(chorus.database_url(service))
        assert await own.fetchval("SELECT current_user") == chorus.login(service)
        await own.close()
        for other in {*SERVICES} - {service}:
            url = chorus.database_url(service).rpartition("/")[0] + "/" + chorus.login(other)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(url)

    @pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS.keys())
    async def test_billings_role_cannot(self, chorus: Installation, statement: str) -> None:
        connection = await asyncpg.connect(chorus.database_url("billing"))
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        finally:
            await connection.close()
