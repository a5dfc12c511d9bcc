"""Watches the broker's topology: what concerns a service is compared with what it declares, every minute.

A difference makes no service unready. It loses events of others, or will; `chorus migrate` mends most of them.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

import httpx
import structlog
from prometheus_client import Gauge

from chassis.messaging.addresses import login_of, management_api, node_urls, vhost_of, with_login
from chassis.messaging.differences import LISTS, topology_differences
from chassis.messaging.topology import JOURNAL, topology
from chassis.runtime.backlog import poll
from events.base import Event

log = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 60.0

TIMEOUT_SECONDS: Final = 15.0
"""For one comparison. With WATCH_SECONDS less than a task may take without progress."""

SHOWN: Final = 50
"""Differences that are logged and shown; more are counted."""

DIFFERENCES = Gauge(
    "chorus_topology_differences",
    "Differences between the broker's topology and the declared one, at the last comparison.",
    ["service"],
)
UNKNOWN = Gauge(
    "chorus_topology_unknown",
    "1 if the management API did not say what the broker's topology is.",
    ["service"],
)


class TopologyWatch:
    """A service's exchange, its queues with arguments, bindings and policies; and its part in what all share.

    It reads with the service's own login. What others bind to the service's exchange is theirs to watch, and
    permissions only an administrator may read.
    """

    def __init__(
        self, service: str, consumed: Iterable[type[Event]], api_url: str, broker_url: str
    ) -> None:
        """Raises ValueError or httpx.InvalidURL if `api_url` is none."""
        self._service = service
        self._wanted = topology({service: tuple(consumed)})
        self._vhost = quote(vhost_of(broker_url), safe="")
        url = with_login(api_url, *login_of(node_urls(broker_url)[0]))
        self._api = httpx.AsyncClient(**management_api(url))
        self._found: list[str] = []

    def remarks(self) -> str:
        """What the last comparison found, for an operator; empty if there is no difference."""
        return f"topology: {', '.join(self._found)}" if self._found else ""

    async def run(self) -> None:
        """Compare now and every WATCH_SECONDS, for as long as the process runs."""
        async with self._api:
            await poll(self._compare, every=WATCH_SECONDS)

    async def _compare(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                lists = {name: await self._read(name) for name in LISTS}
            found = sorted(topology_differences(self._wanted, lists))
        except Exception as error:
            # No answer, or none that was expected. The service works without.
            UNKNOWN.labels(self._service).set(1)
            self._note("topology.unknown", [f"unknown ({_reason(error)})"])
        else:
            UNKNOWN.labels(self._service).set(0)
            DIFFERENCES.labels(self._service).set(len(found))
            self._note("topology.differs" if found else "topology.as_declared", found[:SHOWN])

    async def _read(self, name: str) -> list[dict[str, Any]]:
        answer = await self._api.get(f"{name}/{self._vhost}")
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        if name == "bindings":  # the journal has one of each service, which watches its own
            own = self._service
            found = [b for b in found if b["destination"] != JOURNAL or b["source"] == own]
        return found

    def _note(self, event: str, found: list[str]) -> None:
        if found != self._found:
            (log.warning if found else log.info)(event, found=found)
        self._found = found


def _reason(error: Exception) -> str:
    """The cause of a failed comparison in a few characters, without an address."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__
