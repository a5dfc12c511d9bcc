"""The events of a message that could not be processed: repeated with backoff, then dead-lettered."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog
from faststream.rabbit import RabbitMessage
from pydantic import ValidationError

from chassis.database.group_commit import GroupCommitter
from chassis.messaging.contradictions import CONTRADICTIONS, ContradictionError
from chassis.messaging.dead_letters import (
    DEAD_LETTERED,
    LEFT_TO_BROKER,
    DeadLetterQueue,
    with_reason,
)
from chassis.messaging.failure_log import FailureLog
from chassis.messaging.message import alone
from events.base import Envelope, Event

log = structlog.get_logger(__name__)

RETRY_DELAYS: Final = (0.1, 0.5, 2.0)
"""Seconds before the second, third and fourth attempt at an event that fails; then it is dead-lettered."""

RETRYING_LIMIT: Final = 4
"""Messages of a queue whose events wait for retries at a time. Failed events of further ones are dead-lettered after
one attempt: events that all fail never take more than a quarter of the prefetch from others."""

E = TypeVar("E", bound=Event)


@dataclass(slots=True)
class Failure:
    """An event of a message that could not be processed, so far."""

    index: int
    """Its place in the message."""
    error: BaseException | None
    """Of the last attempt; None once one has succeeded."""
    attempts: int = 1


class FailedEvents(Generic[E]):
    """What becomes of the events of one queue that fail."""

    def __init__(
        self,
        queue: str,
        event: type[E],
        committer: GroupCommitter[Envelope[E], None],
        dead_letters: DeadLetterQueue,
    ) -> None:
        self._queue = queue
        self._event = event
        self._committer = committer
        self._dead_letters = dead_letters
        self._retrying = 0
        self._log = FailureLog(log, logging.WARNING)
        # The series exist from the start: an alarm on a rise misses one that begins with 1.
        DEAD_LETTERED.labels(queue)
        LEFT_TO_BROKER.labels(queue)
        self._contradictions = CONTRADICTIONS.labels(queue.partition(".")[0])

    async def handle(
        self,
        message: RabbitMessage,
        found: Sequence[Envelope[E] | ValidationError],
        errors: Sequence[BaseException | None],
    ) -> bool:
        """Repeat and dead-letter; returns False if the broker has to dead-letter the whole message."""
        return await self._dead_letter(message, await self._retry(found, errors))

    async def _retry(
        self,
        found: Sequence[Envelope[E] | ValidationError],
        errors: Sequence[BaseException | None],
    ) -> list[Failure]:
        """Repeat failed attempts at events, unless many messages wait for that; returns what had failed at first."""
        failures = [
            Failure(index, error) for index, error in enumerate(errors) if error is not None
        ]
        events = [(failure, found[failure.index]) for failure in failures]
        retried = [(failure, event) for failure, event in events if isinstance(event, Envelope)]
        if retried and self._retrying < RETRYING_LIMIT:
            self._retrying += 1
            try:
                await asyncio.gather(*(self._retry_event(*one) for one in retried))
            finally:
                self._retrying -= 1
        return failures

    async def _retry_event(self, failure: Failure, event: Envelope[E]) -> None:
        """Repeat a failed attempt with backoff."""
        for delay in RETRY_DELAYS:
            self._log.add(
                "consumer.failed",
                queue=self._queue,
                error=type(failure.error).__name__,
                event_id=str(event.id),
                exc_info=failure.error,
            )
            await asyncio.sleep(delay)
            failure.attempts += 1
            try:
                await self._committer.submit(event)
            except Exception as error:
                failure.error = error
            else:
                failure.error = None
                return

    async def _dead_letter(self, message: RabbitMessage, failures: Sequence[Failure]) -> bool:
        """Dead-letter events, each alone; returns False if the broker has to dead-letter the whole message."""
        dead_letters = [
            with_reason(
                alone(message.raw_message, failure.index),
                queue=self._queue,
                exchange=self._event.exchange,
                key=self._event.key,
                error=failure.error,
                attempts=failure.attempts,
            )
            for failure in failures
            if failure.error is not None
        ]
        errors = [failure.error for failure in failures]
        self._contradictions.inc(sum(isinstance(e, ContradictionError) for e in errors))
        return not dead_letters or await self._dead_letters.put(dead_letters, self._queue)
