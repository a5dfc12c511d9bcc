"""The broker of a service: exchange and queues, the settings of its subscribers, and its lifetime.

There is one exchange, `usual`; a queue per consumer and event, such as `usual.billing.order-placed`; and `usual.dead`
for messages that the broker has dead-lettered after DELIVERY_LIMIT deliveries.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import aio_pika
import stamina
import structlog
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel
from aio_pika.connection import make_url
from faststream import AckPolicy, BaseMiddleware, StreamMessage
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue
from pamqp.common import FieldTable
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bench.baselines.common import Service
from bench.baselines.usual.outbox import create_table
from bench.baselines.usual.relay import EXCHANGE, Relay
from bench.baselines.usual.session import Sessions
from chassis.database.errors import is_transient
from chassis.database.pool import START_SECONDS
from chassis.messaging.errors import connection_may_be_lost
from chassis.runtime.settings import settings
from events.base import Causation, Event
from events.billing import PaymentRejected, PaymentSucceeded
from events.orders import OrderPlaced
from events.users import UserRegistered

log = structlog.get_logger(__name__)

SUBSCRIPTIONS: Final[dict[str, tuple[type[Event], ...]]] = {
    "billing": (UserRegistered, OrderPlaced),
    "orders": (PaymentSucceeded, PaymentRejected),
    "notifications": (UserRegistered, PaymentSucceeded, PaymentRejected),
}

DEAD: Final = "usual.dead"
DELIVERY_LIMIT: Final = 20
PREFETCH: Final = 20
"""The messages of a queue that are handled in parallel."""

WAIT_SECONDS: Final = 0.5
FAULT_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 8.0


class UnknownUserError(Exception):
    """The event about this user is not received yet."""


class RetryTransientErrors(BaseMiddleware[Any, Any]):
    """Retries an unacknowledged message after transient errors. After other errors it is returned, with a delay."""

    async def consume_scope(
        self, call_next: Callable[[Any], Awaitable[Any]], msg: StreamMessage[Any]
    ) -> Any:
        """Handle one message."""
        while True:
            try:
                return await call_next(msg)
            except Exception as error:
                if not _is_transient(error):
                    log.exception("subscriber.failed", message_id=msg.message_id)
                    await asyncio.sleep(FAULT_SECONDS)
                    raise
                log.warning("subscriber.waiting", message_id=msg.message_id, error=repr(error))
                await asyncio.sleep(WAIT_SECONDS)


def _is_transient(error: BaseException | None) -> bool:
    # SQLAlchemy wraps what the driver raises.
    while error is not None:
        if is_transient(error) or isinstance(error, UnknownUserError | PoolTimeoutError):
            return True
        error = error.__cause__
    return False


def broker_of(service: str) -> RabbitBroker:
    """The broker client of a service. It connects when it is started."""
    url = make_url(settings().broker_url(service)).update_query(heartbeat="10", name=service)
    return RabbitBroker(
        str(url),
        app_id=service,
        graceful_timeout=DRAIN_SECONDS,
        reconnect_interval=1.0,
        default_channel=Channel(on_return_raises=True),
        middlewares=[RetryTransientErrors],
        logger=None,
    )


def subscription(service: str, kind: type[Event]) -> dict[str, Any]:
    """The arguments of `broker.subscriber` for an event. A message is acknowledged after its function has returned."""
    return {
        "queue": RabbitQueue(_queue_name(service, kind), declare=False),
        "channel": Channel(prefetch_count=PREFETCH),
        "ack_policy": AckPolicy.NACK_ON_ERROR,
    }


def causation(message: RabbitMessage) -> Causation:
    """The causation of what is published because of a message."""
    traceparent = message.headers.get("traceparent")
    return Causation(
        message.correlation_id, UUID(message.message_id), str(traceparent) if traceparent else None
    )


@contextlib.asynccontextmanager
async def messaging(
    service: Service, sessions: Sessions, broker: RabbitBroker
) -> AsyncIterator[None]:
    """A part of every service: it creates outbox and queues, consumes, and runs the relay."""
    await create_table(service)
    async for attempt in stamina.retry_context(on=OSError, attempts=None, timeout=START_SECONDS):
        with attempt, connection_may_be_lost():
            await _declare(service.settings.broker_url(service.name))
            await broker.start()

    async def fault() -> str:
        return "" if await broker.ping(timeout=2) else "no answer"

    service.checks["broker"] = fault
    service.supervisor.start("relay", Relay(sessions, broker).run())
    try:
        yield
    finally:
        await broker.stop()
        engine: Any = sessions.kw["bind"]
        await engine.dispose()


def _queue_name(service: str, kind: type[Event]) -> str:
    return f"usual.{service}.{kind.queue_key()}"


async def _declare(url: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE.name, ExchangeType.TOPIC, durable=True)
        await _queue(channel, DEAD, {})
        for service, kinds in SUBSCRIPTIONS.items():
            for kind in kinds:
                dead: FieldTable = {
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": DEAD,
                    "x-delivery-limit": DELIVERY_LIMIT,
                }
                queue = await _queue(channel, _queue_name(service, kind), dead)
                await queue.bind(exchange, kind.key)


async def _queue(
    channel: AbstractChannel, name: str, arguments: FieldTable
) -> aio_pika.abc.AbstractQueue:
    quorum: FieldTable = {"x-queue-type": "quorum"}
    return await channel.declare_queue(name, durable=True, arguments=quorum | arguments)
