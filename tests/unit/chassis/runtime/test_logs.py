"""What a service writes to its log: with JSON asked for, every line is JSON, also those of libraries."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from chassis.runtime.logs import configure_logging
from chassis.runtime.settings import Settings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_every_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"), "orders")
    structlog.get_logger("tests").warning("orders.something", order_id="1")
    logging.getLogger("aiormq.connection").error("cannot connect to %s", "the broker")
    try:
        int("no")
    except ValueError:
        logging.getLogger("asyncio").exception("a callback failed")
    ours, theirs, fault = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["order_id"], ours["service"]) == ("orders.something", "1", "orders")
    assert (theirs["event"], theirs["logger"]) == (
        "cannot connect to the broker",
        "aiormq.connection",
    )
    assert theirs["level"] == "error"
    assert theirs["timestamp"].endswith("Z")
    assert "ValueError: invalid literal" in fault["exception"]
