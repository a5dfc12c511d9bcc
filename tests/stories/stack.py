"""All of Chorus as real processes on the tests' servers, with mail, and with an administrator's view of everything."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
from prometheus_client.parser import text_string_to_metric_families
from uuid_utils.compat import uuid7

from apps import SERVICES
from bench.answers import Answers, Attempt, History
from chassis.messaging.outbox import Row
from chassis.messaging.topology import JOURNAL
from events.base import Envelope, Event
from events.users import Locale
from ops.audit import Urls, audit
from ops.subscriptions import SUBSCRIPTIONS, TOPOLOGY
from tests.stories.customers import Customer
from tests.stories.journal import Journal, outbox_row_of
from tests.stories.mail_server import MailServer
from tests.stories.snapshot import snapshot_of
from tests.stories.snapshot_rules import violations
from tests.support.broker import Broker
from tests.support.eventually import eventually
from tests.support.installation import Installation
from tests.support.processes import Processes, ServiceProcess

OPERATOR: Final = "operator@chorus.test"
OPERATOR_PASSWORD: Final = "not a secret"
POOLS: Final = 10
"""Connection pools for each process."""

QUIET_SECONDS: Final = 45.0
"""How long what was begun may take; longer than the lease on notifications that a killed dispatcher leaves behind."""

LOOKS_SECONDS: Final = 5.0
"""How long an audit looks again at what is wrong at rest: by then an operator's page is up to date."""


class Stack:
    """Four services, a mail server, and what has been asked of them so far."""

    def __init__(self, installation: Installation, processes: Processes) -> None:
        self.mail = MailServer()
        self.broker = Broker(installation.amqp_admin_url)
        self.journal = Journal(installation.amqp_admin_url, self.is_copied)
        self.attempts: list[Attempt] = []
        self.refused_for_good: set[str] = set()
        """Addresses whose e-mails a story had refused with 5xx."""
        self.extra_copies = 0
        """How many e-mails may have been sent twice, because a dispatcher was killed between sending and recording."""
        self.republished: set[UUID] = set()
        """Events that a story has published again under new ids."""
        self.installation = installation
        self._processes = processes
        self._services: dict[str, ServiceProcess] = {}
        self.databases: dict[str, asyncpg.Pool[asyncpg.Record]] = {}
        self._clients: dict[tuple[str, int], httpx.AsyncClient] = {}
        self._turns = itertools.cycle(range(POOLS))

    @property
    def urls(self) -> Urls:
        """Where an audit looks."""
        databases = {s: self.installation.auditor_url(s) for s in SERVICES}
        return Urls(databases, amqp={s: self.installation.amqp_url(s) for s in SERVICES})

    @property
    def history(self) -> History:
        """All requests for orders, and their outcomes."""
        return History(
            [dataclasses.replace(attempt) for attempt in self.attempts], set(self.republished)
        )

    def __getitem__(self, service: str) -> ServiceProcess:
        return self._services[service]

    async def start(self) -> None:
        """Start everything, side by side; returns once every service can check tokens."""
        await asyncio.gather(self.mail.open(), self.broker.open(), self.journal.open())
        await self._open_databases()
        for service in SERVICES:
            self._services[service] = self._process(service)
        for process in self._services.values():
            process.launch()
        await asyncio.gather(*(process.ready() for process in self._services.values()))
        await eventually(self._everybody_knows_the_key)

    async def _open_databases(self) -> None:
        for service in SERVICES:
            await self.open_database(service)

    async def open_database(self, service: str) -> None:
        url = self.installation.database_admin_url(service)
        self.databases[service] = await asyncpg.create_pool(url, min_size=1, max_size=2)

    async def stop(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        await self._processes.stop()
        await asyncio.gather(*(pool.close() for pool in self.databases.values()))
        await asyncio.gather(self.journal.close(), self.broker.close(), self.mail.close())

    def _process(
        self, service: str, name: str | None = None, settings: Mapping[str, str] | None = None
    ) -> ServiceProcess:
        settings = {
            "CHORUS_OPERATOR_EMAIL": OPERATOR,
            "CHORUS_OPERATOR_PASSWORD": OPERATOR_PASSWORD,
            "CHORUS_SMTP_PORT": str(self.mail.port),
        } | dict(settings or {})
        return self._processes.of(service, self.installation, settings=settings, name=name)

    async def _everybody_knows_the_key(self) -> bool:
        known = [await self.value(service, _KNOWN_KEYS) for service in SERVICES]
        return all(known)

    @contextlib.asynccontextmanager
    async def replica(self, service: str, **settings: str) -> AsyncIterator[ServiceProcess]:
        """A second process of a service, which ends with status 0 at the end of the block."""
        process = await self._process(service, f"{service} replica", settings).start()
        try:
            yield process
        finally:
            assert await process.stop() == 0, process.log

    async def heal(self) -> None:
        """Start what does not run."""
        ended = [process for process in self._services.values() if not process.child.running]
        for process in ended:
            process.launch()
        await asyncio.gather(*(process.ready() for process in ended))

    # HTTP APIs.

    def http(self, service: str | ServiceProcess) -> httpx.AsyncClient:
        """A client without a token of its own, for everybody."""
        process = self._services[service] if isinstance(service, str) else service
        # Several pools: httpx iterates over all connections of a pool for each request.
        which = process.url, next(self._turns)
        if which not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=10)
            self._clients[which] = process.http(limits=limits)
        return self._clients[which]

    async def customer(
        self, name: str = "Ada Lovelace", locale: Locale = "en", *, deposit: str | None = None
    ) -> Customer:
        """Register and sign in a customer, perhaps with money in their account."""
        somebody = await Customer(self, name, locale).register()
        if deposit is not None:
            await somebody.deposit(deposit)
        return somebody

    async def operator(self) -> Customer:
        """The operator of the settings, signed in."""
        operator = Customer(self, "Operator", "en")
        operator.addresses = [OPERATOR]
        await operator.sign_in(OPERATOR_PASSWORD)
        return operator

    async def metric(self, process: ServiceProcess, name: str, **labels: str) -> float:
        """A figure of a process: the sum over everything that has these labels."""
        text = (await self.http(process).get("/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    # Memory.

    async def rows(self, service: str, sql: str, *values: Any) -> list[dict[str, Any]]:
        """What stands in a service's database."""
        return [dict(record) for record in await self.databases[service].fetch(sql, *values)]

    async def value(self, service: str, sql: str, *values: Any) -> Any:
        return await self.databases[service].fetchval(sql, *values)

    # Delivery.

    async def publish_again(self, events: Iterable[Envelope[Event]]) -> list[Row]:
        """Publish events under new ids, so that no inbox deduplicates them."""
        rows = [outbox_row_of(received, id=uuid7()) for received in events]
        self.republished |= {row.id for row in rows}
        return await self.broker.publish(*rows)

    async def has_processed(self, service: str, kind: type[Event], subject: UUID) -> None:
        """Wait until a service has processed an event of a kind about a subject."""

        async def received() -> bool:
            await self.journal.up_to_now()
            published = {e.id for e in self.journal.events(kind) if e.event.subject == str(subject)}
            return bool(published & await self.inbox(service))

        await eventually(received, what=f"{service} does not process {kind.__name__}")

    # Rest.

    async def is_quiet(self) -> None:
        """Wait until every event is published and processed by its subscribers, and no notification is open."""
        await eventually(self._is_quiet, within=QUIET_SECONDS)

    async def _is_quiet(self) -> None:
        await self._nothing_is_open()  # cheap, and mostly the answer
        # A processed event may open a notification, a sent notification leaves an event in the outbox, and an event
        # that leaves the outbox is in the journal: checked in this order, nothing is missed.
        await self.journal.up_to_now()
        published = len(self.journal.events())
        for service in SERVICES:
            stopped = self.subscribed(service) - await self.inbox(service)
            assert not stopped, (
                f"{service} has not processed {len(stopped)} events: {[*stopped][:3]}"
            )
        await self._nothing_is_open()
        for queue, waiting in (await self.queues()).items():
            assert waiting == 0 or queue.endswith(".dead"), f"{waiting} messages wait in {queue}"
        await self.journal.up_to_now()
        assert len(self.journal.events()) == published, "events are still being published"

    async def _nothing_is_open(self) -> None:
        pending = await self.value("orders", _PENDING_ORDERS)
        assert pending == 0, f"{pending} orders are pending"
        open_notifications = await self.value("notifications", _OPEN_NOTIFICATIONS)
        assert open_notifications == 0, f"{open_notifications} notifications are not sent"
        for service in SERVICES:
            for outbox in ("outbox", "journal_outbox"):
                waiting = await self.value(service, f"SELECT count(*) FROM {outbox}")
                assert waiting == 0, f"{waiting} events wait in the {outbox} of {service}"

    async def is_copied(self) -> None:
        """Wait until the journal has everything that is published by now."""
        for service in SERVICES:
            rows = await self.rows(service, "SELECT id FROM journal_outbox")
            await eventually(partial(self._has_copied, service, [row["id"] for row in rows]))

    async def _has_copied(self, service: str, ids: list[UUID]) -> bool:
        waiting = "SELECT count(*) FROM journal_outbox WHERE id = ANY($1)"
        return bool(await self.value(service, waiting, ids) == 0)

    def subscribed(self, service: str) -> set[UUID]:
        """The ids of all published events to which a service subscribes."""
        return {received.id for received in self.journal.events(*SUBSCRIPTIONS[service])}

    async def inbox(self, service: str) -> set[UUID]:
        """The ids of all events that a service has processed."""
        return {
            row["event_id"]
            for row in await self.rows(service, "SELECT event_id FROM processed_events")
        }

    async def queues(self) -> dict[str, int]:
        """How many messages are ready in each queue."""
        names = [queue.name for queue in TOPOLOGY.queues if queue.name != JOURNAL]
        return {name: await self.broker.waiting(name) for name in names}

    async def audit(self) -> Sequence[str]:
        """Wait for rest, then return a line for each violation of an invariant.

        The rules of `ops.audit`, as an operator's audit evaluates them, and those about all published events and the
        mail, which only a test knows.
        """
        await self.is_quiet()
        report = await audit(
            self.urls,
            [Answers(self.history)],
            at_rest=True,
            timeout_seconds=LOOKS_SECONDS,
            republished=self.history.republished,
        )
        return [*report.lines(), *violations(await snapshot_of(self))]


_KNOWN_KEYS = "SELECT count(*) FROM signing_keys"
_PENDING_ORDERS = "SELECT count(*) FROM orders WHERE status = 'pending'"
_OPEN_NOTIFICATIONS = "SELECT count(*) FROM notifications WHERE status IN ('waiting', 'pending')"
