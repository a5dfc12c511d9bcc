"""`chorus audit`: one audit, reported to a person or a program; with `--watch` one after another, for Prometheus."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from chassis.runtime.logs import configure_logging
from chassis.runtime.settings import settings
from ops.audit.access import Urls, urls_of
from ops.audit.auditor import audit
from ops.audit.databases import DatabaseUnavailableError

log = structlog.get_logger(__name__)

CLEAN, VIOLATED, UNKNOWN = 0, 1, 2
"""Exit statuses."""

EXAMPLES: Final = 5
"""Findings that are shown of each invariant, or logged of one audit."""

METRICS: Final = CollectorRegistry()
"""What /metrics serves."""

VIOLATIONS = Gauge(
    "chorus_audit_violations", "Findings of the last audit.", ["invariant"], registry=METRICS
)
CHECKED = Gauge("chorus_audit_checked", "Rows that were checked.", ["invariant"], registry=METRICS)
SECONDS = Gauge("chorus_audit_seconds", "Duration of the last audit.", registry=METRICS)
COMPLETED = Gauge(
    "chorus_audit_last_success_timestamp_seconds",
    "When an audit was last completed.",
    registry=METRICS,
)
FAILED = Counter(
    "chorus_audit_failed_total",
    "Audits that were not completed: a database did not answer.",
    registry=METRICS,
)


async def once(timeout_seconds: float, *, at_rest: bool, as_json: bool) -> int:
    """Audit and print the report. Returns the exit status. Raises DatabaseUnavailableError, but for JSON."""
    configure_logging(settings(), "audit")
    try:
        report = await audit(urls_of(settings()), timeout_seconds=timeout_seconds, at_rest=at_rest)
    except DatabaseUnavailableError as error:
        if not as_json:
            raise
        print(json.dumps({"error": str(error)}), file=sys.stderr)
        return UNKNOWN
    if as_json:
        print(json.dumps(report.as_json(EXAMPLES), indent=2))
    else:
        print(report.as_text(EXAMPLES))
    return CLEAN if report.clean else VIOLATED


async def watch(
    every: float, timeout_seconds: float, *, at_rest: bool, address: tuple[str, int]
) -> None:
    """Audit every so many seconds and serve /metrics, until SIGINT or SIGTERM. Raises OSError for a busy port."""
    configure_logging(settings(), "audit")
    urls, (host, port) = urls_of(settings()), address
    server, thread = start_http_server(port, host, METRICS)
    auditing = asyncio.create_task(_repeat(urls, every, timeout_seconds, at_rest))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, auditing.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await auditing  # it only ends by a signal, or by a fault, which is raised here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def _repeat(urls: Urls, every: float, timeout_seconds: float, at_rest: bool) -> None:
    while True:
        begun = time.monotonic()
        try:
            report = await audit(urls, timeout_seconds=timeout_seconds, at_rest=at_rest)
        except DatabaseUnavailableError as error:
            FAILED.inc()
            log.warning("audit.database_unavailable", error=str(error))
        else:
            for one in report.invariants:
                VIOLATIONS.labels(str(one.number)).set(len(one.findings))
                CHECKED.labels(str(one.number)).set(one.rows)
            SECONDS.set(report.seconds)
            COMPLETED.set_to_current_time()
            for line in report.lines()[:EXAMPLES]:
                log.error("audit.violation", finding=line)
            log.info("audit.completed", violated=report.violated, seconds=round(report.seconds, 2))
        await asyncio.sleep(max(0.0, begun + every - time.monotonic()))
