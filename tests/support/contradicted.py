"""What a service of this process reports about contradictions: its counter, and its log."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import LogCapture

from chassis.messaging import contradictions


def counted(service: str) -> float:
    """The counter's value."""
    return REGISTRY.get_sample_value("chorus_contradictions_total", {"service": service}) or 0.0


@contextmanager
def reported(service: str, count: int = 1) -> Iterator[list[MutableMapping[str, Any]]]:
    """The block makes a service count so many. Yields what it logs of those that are not dead-lettered."""
    before, capture = counted(service), LogCapture()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contradictions, "log", structlog.wrap_logger(None, processors=[capture]))
        yield capture.entries
    assert counted(service) - before == count
