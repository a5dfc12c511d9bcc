"""The log of failures that come by the thousand: a line for the first of each kind, and one a second for the rest."""

import asyncio
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

INTERVAL_SECONDS: Final = 1.0


class FailureLog:
    """Logs failures at one level. A kind is an event with its queue and the first words of its error."""

    def __init__(self, log: FilteringBoundLogger, level: int) -> None:
        self._log = log
        self._level = level
        self._more: dict[tuple[str, str, str], int] = {}
        """Failures of each kind since its last line, within the interval that it began."""

    def add(self, event: str, *, queue: str, error: str, **details: Any) -> None:
        """Log a failure, or count it if one of its kind was logged less than a second ago."""
        kind = (event, queue, error.partition(":")[0])
        if kind in self._more:
            self._more[kind] += 1
            return
        self._log.log(self._level, event, queue=queue, error=error, **details)
        self._more[kind] = 0
        asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._sum_up, kind)

    def _sum_up(self, kind: tuple[str, str, str]) -> None:
        if more := self._more.pop(kind):
            event, queue, error = kind
            self._log.log(self._level, event, queue=queue, error=error, more=more)
