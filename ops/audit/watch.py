"""`chorus audit --watch`: audits at an interval, and serves the results to Prometheus."""

import asyncio
import contextlib
import signal
import time
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from chassis.runtime.logs import configure_logging
from chassis.runtime.settings import settings
from ops.audit.auditor import audit
from ops.audit.databases import DatabaseUnavailableError
from ops.audit.report import Report
from ops.audit.urls import Urls, urls_of

log = structlog.get_logger(__name__)

LOGGED: Final = 5
"""Findings of one audit that are logged."""


class Metrics:
    """What /metrics serves."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        self._violations = gauge(
            "chorus_audit_violations", "Findings of the last audit.", "invariant"
        )
        self._checked = gauge("chorus_audit_checked", "Rows that were checked.", "invariant")
        self._seconds = gauge("chorus_audit_seconds", "Duration of the last audit.")
        self._time = gauge(
            "chorus_audit_last_success_timestamp_seconds", "When an audit was last completed."
        )
        self.failed = Counter(
            "chorus_audit_failed_total",
            "Audits that were not completed, because a database did not answer.",
            registry=self.registry,
        )

    def set(self, report: Report, now: float) -> None:
        """Show a report; `now` is in seconds since 1970."""
        for one in report.invariants:
            self._violations.labels(str(one.number)).set(len(one.findings))
            self._checked.labels(str(one.number)).set(one.rows)
        self._seconds.set(report.seconds)
        self._time.set(now)


async def watch(
    every: float, timeout_seconds: float, *, at_rest: bool, address: tuple[str, int]
) -> None:
    """Audit every so many seconds and serve /metrics, until SIGINT or SIGTERM. Raises OSError for a busy port."""
    configure_logging(settings(), "audit")
    urls, metrics = urls_of(settings()), Metrics()
    server, thread = start_http_server(address[1], address[0], metrics.registry)
    auditing = asyncio.create_task(_repeat(urls, metrics, every, timeout_seconds, at_rest))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, auditing.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await auditing  # it only ends by a signal, or by a fault, which is raised here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _repeat(
    urls: Urls, metrics: Metrics, every: float, timeout_seconds: float, at_rest: bool
) -> None:
    while True:
        begun = time.monotonic()
        try:
            report = await audit(urls, timeout_seconds=timeout_seconds, at_rest=at_rest)
        except DatabaseUnavailableError as error:
            metrics.failed.inc()
            log.warning("audit.database_unavailable", error=str(error))
        else:
            metrics.set(report, time.time())
            for line in report.lines()[:LOGGED]:
                log.error("audit.violation", finding=line)
            log.info("audit.completed", violated=report.violated, seconds=round(report.seconds, 2))
        await asyncio.sleep(max(0.0, begun + every - time.monotonic()))
