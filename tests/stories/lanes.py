"""A service that is made to die at crash points, and is started again."""

from typing import Final

from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.forked import ForkedService

EMAILS_IN_FLIGHT: Final = 2
"""How many may have been sent but not recorded when their dispatcher is killed; a story sends no more at a time."""

KILLED: Final = -9
"""The exit status of a process that died of SIGKILL."""


class Lane:
    """One service that dies at a point, for one event after the other."""

    def __init__(self, chorus: Stack, service: str, point: str) -> None:
        process = chorus[service]
        assert isinstance(process, ForkedService)
        self.process = process
        self.deaths = 0
        self._chorus = chorus
        self._point = point

    async def armed(self, about: str) -> None:
        """Kill the service, and start it so that it will die again: with this event in hand."""
        await self._bury()
        self.process.launch(crash_at=f"{self._point}@{about}")

    async def died(self, about: str) -> None:
        """Wait until it has died at its crash point."""

        async def gone() -> bool:
            return not self.process.child.running

        what = f"{self.process.name} did not come to {self._point} with {about}"
        await eventually(gone, what=what)
        assert self.process.child.exit_status == KILLED, self.process.log
        self.deaths += 1
        assert self.process.log.count(f"point={self._point}\n") >= self.deaths

    async def restarted(self) -> None:
        """Start it as a supervisor would."""
        await self._bury()
        self.process.launch()
        await self.process.ready()

    async def _bury(self) -> None:
        self.process.kill()
        if self.process.service == "notifications":
            self._chorus.extra_copies += EMAILS_IN_FLIGHT
            # The leases of a dead dispatcher end at once, instead of after a quarter of a minute.
            await self._chorus.rows("notifications", _END_LEASES)


_END_LEASES: Final = """
UPDATE notifications SET due_at = now() WHERE status IN ('waiting', 'pending') AND due_at > now() RETURNING id
"""
