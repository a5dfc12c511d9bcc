"""`chorus audit`: what the audit says, to a person, to a program, or to Prometheus again and again."""

import asyncio
import json
import signal
import sys
import time
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from apps import SERVICES
from chassis.runtime.settings import Settings, settings
from chassis.runtime.telemetry import configure_logging
from ops.audit import CannotLook, Report, Urls, audit
from ops.audit.rights import auditor_url, broker_auditor
from ops.management import vhost_of, with_login

log = structlog.get_logger(__name__)

CLEAN, WRONG, UNKNOWN = 0, 1, 2
"""Exit statuses."""

EXAMPLES: Final = 5
"""Findings of each invariant that are shown."""


def urls_of(config: Settings) -> Urls:
    """Where the audit looks: with the auditor's logins if there is a password for them, else with the services' own.

    Raises LookupError if a database's URL is not set. Whatever is missing of the broker is not looked at.
    """
    password = config.auditor_password.get_secret_value() if config.auditor_password else None
    databases = {service: config.database_url(service) for service in SERVICES}
    if password is not None:
        databases = {service: auditor_url(url, password) for service, url in databases.items()}
    try:
        amqp = {service: config.broker_url(service) for service in SERVICES}
    except LookupError:
        return Urls(databases)
    vhost = vhost_of(next(iter(amqp.values())))
    if config.rabbitmq_api_url is None:
        return Urls(databases, amqp)
    api = config.rabbitmq_api_url.get_secret_value()
    if password is not None:
        api = with_login(api, broker_auditor(vhost), password)
    return Urls(databases, rabbitmq_api=api, vhost=vhost)


async def once(patience: float, *, at_rest: bool, as_json: bool) -> int:
    """Audit and say what was found. Returns the exit status."""
    configure_logging(settings(), "audit")
    try:
        report = await audit(urls_of(settings()), patience=patience, at_rest=at_rest)
    except CannotLook as error:
        print(json.dumps({"error": str(error)}) if as_json else f"chorus: {error}", file=sys.stderr)
        return UNKNOWN
    print(json.dumps(report.as_json(EXAMPLES), indent=2) if as_json else told(report))
    return CLEAN if report.clean else WRONG


def told(report: Report) -> str:
    """The report for a person."""
    lines = [f"{'invariant':<52}{'checked':>12}{'wrong':>8}"]
    for one in report.invariants:
        lines.append(f"{one.number} {one.name:<50}{one.rows:>12,}{len(one.findings):>8,}")
        lines += [f"    {finding.text}" for finding in one.findings[:EXAMPLES]]
        if len(one.findings) > EXAMPLES:
            lines.append(f"    and {len(one.findings) - EXAMPLES:,} more")
    waiting = sum(report.waiting.values())
    lines += [
        "",
        f"on their way: {report.in_flight:,} orders, {report.open_letters:,} letters, {waiting:,} events in outboxes, "
        + _queues(report),
        f"took: {report.seconds:.1f} s; looks: {report.looks}; suspects at the first look: {report.suspects:,}",
    ]
    if report.more:
        lines.append("there were more suspects than were looked at: mend these, and audit again")
    return "\n".join(lines)


def _queues(report: Report) -> str:
    if report.queues is None:
        return "queues not looked at"
    return f"{sum(report.queues.values()):,} messages in queues"


class Figures:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self._violations = gauge(
            "chorus_audit_violations", "Findings of the last audit.", "invariant"
        )
        self._checked = gauge("chorus_audit_checked", "Rows gone through.", "invariant")
        self._seconds = gauge("chorus_audit_seconds", "How long the last audit took.")
        self._time = gauge(
            "chorus_audit_last_success_timestamp_seconds", "When an audit last came to an end."
        )
        self._failed = Counter(
            "chorus_audit_failed_total", "Audits that could not look.", registry=self.registry
        )

    def take(self, report: Report, now: float) -> None:
        """Show a report; `now` is in seconds since 1970."""
        for one in report.invariants:
            self._violations.labels(str(one.number)).set(len(one.findings))
            self._checked.labels(str(one.number)).set(one.rows)
        self._seconds.set(report.seconds)
        self._time.set(now)

    def failed(self) -> None:
        """Count an audit that could not look."""
        self._failed.inc()


async def watching(
    every: float, patience: float, *, at_rest: bool, address: tuple[str, int]
) -> None:
    """Audit every so many seconds and serve /metrics, until SIGINT or SIGTERM. Raises OSError for a busy port."""
    configure_logging(settings(), "audit")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    urls, figures = urls_of(settings()), Figures()
    server, thread = start_http_server(address[1], address[0], figures.registry)
    try:
        auditing = asyncio.create_task(_again_and_again(urls, figures, every, patience, at_rest))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([auditing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            auditing.result()  # it never ends but by a fault, which is raised here
        auditing.cancel()
        await asyncio.wait([auditing])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _again_and_again(
    urls: Urls, figures: Figures, every: float, patience: float, at_rest: bool
) -> None:
    while True:
        begun = time.monotonic()
        try:
            report = await audit(urls, patience=patience, at_rest=at_rest)
        except CannotLook as error:
            figures.failed()
            log.warning("audit.cannot_look", error=str(error))
        else:
            figures.take(report, time.time())
            for line in report.lines()[:EXAMPLES]:
                log.error("audit.violation", finding=line)
            log.info("audit.done", violated=report.violated, seconds=round(report.seconds, 2))
        await asyncio.sleep(max(0.0, begun + every - time.monotonic()))
