"""Three nodes of RabbitMQ: the leader is killed, frozen, cut off. Orders go on, and nothing is lost or doubled."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from aio_pika.exceptions import AMQPError

from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.topology import queue_name
from events.orders import OrderPlaced
from tests.chaos.world import Witness
from tests.stories.load import Load
from tests.stories.stack import Stack
from tests.support.broker import Broker
from tests.support.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.forked import ForkedService
from tests.support.installation import install
from tests.support.processes import Processes
from tests.support.servers import Servers
from tools.children import CannotRun
from tools.servers.install import install_missing

pytestmark = pytest.mark.timeout(300)  # seconds, where a machine has much else to do

VHOST = "cluster"
QUEUE = queue_name("billing", OrderPlaced)
Fault = Callable[[Cluster, str], AbstractAsyncContextManager[None]]


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    try:
        install_missing("rabbitmq")
    except CannotRun as missing:
        pytest.skip(f"nodes as processes are needed, to be killed and frozen: {missing}")
    async with Cluster.running() as made:
        yield made


@pytest.fixture(scope="module")
async def chorus(
    cluster: Cluster, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    installation = await install(cluster.servers(servers.database_admin_url), VHOST)
    stack = Stack(installation, Processes(tmp_path_factory.mktemp(VHOST), ForkedService))
    stack.journal = Witness(installation.amqp_admin_url)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


@pytest.mark.parametrize("fault", [Cluster.killed, Cluster.frozen, Cluster.cut_off])
async def test_orders_are_settled_while_the_leading_node_is(
    cluster: Cluster, chorus: Stack, fault: Fault
) -> None:
    await cluster.whole(VHOST)
    leader = await cluster.leader(VHOST, QUEUE)
    async with Load.on(chorus) as load:
        await load.goes_on(10)
        async with fault(cluster, leader):
            before = len(load.orders)
            await load.goes_on(20)
            try:
                await settled(chorus, load, before)
            except AssertionError as unsettled:
                unsettled.add_note(await cluster.described(VHOST, without=leader))
                raise
        await load.goes_on(10)
    await cluster.whole(VHOST)

    async def audited() -> None:
        # The first node, through which we look, may still be coming back.
        try:
            with contextlib.suppress(AMQPError, OSError), connection_may_be_lost():
                await chorus.broker.close()
            chorus.broker = Broker(chorus.installation.amqp_admin_url)
            with connection_may_be_lost():
                await chorus.broker.open()
                findings = await chorus.audit()
        except (AMQPError, OSError) as error:
            raise AssertionError(repr(error)) from error
        assert not findings, "\n".join(findings)

    await eventually(audited)


async def settled(chorus: Stack, load: Load, first: int) -> None:
    """Wait until orders that were accepted during the fault have their outcomes."""

    async def decided() -> bool:
        pending = "SELECT count(*) FROM orders WHERE status = 'pending' AND id = ANY($1)"
        return bool(await chorus.value("orders", pending, load.orders[first:]) == 0)

    await eventually(decided, within=90, what="orders stay pending")
