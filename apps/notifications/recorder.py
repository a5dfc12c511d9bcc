"""The recorder: gathers what mail servers said to letters, and records it in groups, each in one transaction.

Under load many answers share a transaction. The last answer in sight waits for nobody.
"""

import asyncio
import math
from typing import Final

import structlog
from prometheus_client import Counter

from apps.notifications import use_cases
from apps.notifications.models import Letter
from apps.notifications.use_cases import Answer
from chassis.database.group_commit import GroupCommitter, OnCommit
from chassis.database.transaction import Pool
from chassis.runtime import crash_points as crash

log = structlog.get_logger(__name__)

GROUP_LIMIT: Final = 64
"""So many answers are recorded without waiting for more."""

GATHER_SECONDS: Final = 0.03
"""How long an answer waits for others to share its transaction."""

ANSWERED = Counter("chorus_notifications_attempts_total", "What became of letters.", ["status"])


class Recorder:
    """Records answers. A database that is away is waited for; any other fault is set on `fault`."""

    def __init__(self, pool: Pool, on_commit: OnCommit) -> None:
        self._committer = GroupCommitter(
            pool,
            use_cases.record_answers,
            name="notifications.record_answers",
            on_commit=on_commit,
            waiting_limit=math.inf,
        )
        self._answers: list[Answer] = []
        self._loop = asyncio.get_running_loop()
        self._soon: asyncio.TimerHandle | None = None
        self.fault: asyncio.Future[None] = self._loop.create_future()

    def note(self, answer: Answer, *, last: bool) -> None:
        """Take an answer; `last` if no other is to be expected soon."""
        self._answers.append(answer)
        if last or len(self._answers) >= GROUP_LIMIT:
            self._record()
        elif self._soon is None:
            self._soon = self._loop.call_later(GATHER_SECONDS, self._record)

    async def drain(self) -> None:
        """Record what has been noted, and wait until that is done."""
        self._record()
        await self._committer.drain()

    def _record(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        answers, self._answers = self._answers, []
        for answer in answers:
            self._committer.submit(answer).add_done_callback(self._recorded)

    def _recorded(self, recorded: asyncio.Future[Letter]) -> None:
        if recorded.cancelled():
            return
        if (error := recorded.exception()) is not None:
            if not self.fault.done():
                self.fault.set_exception(error)
            return
        letter = recorded.result()
        if crash.ARMED:
            crash.reached("mailer.after_record", [letter.kind])
        ANSWERED.labels(letter.status).inc()
        if letter.status != "sent":
            log.info(
                "mailer.not_sent",
                letter_id=str(letter.id),
                status=letter.status,
                attempts=letter.attempts,
                code=(letter.answer or "")[:3],
            )
