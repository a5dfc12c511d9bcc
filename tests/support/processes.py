"""Services as real processes: started, killed, ended and started again; their logs are shown when a test fails."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.eventually import eventually
from tests.support.installation import Installation
from tools.children import Child, ChildFailed
from tools.servers.ports import private_port

START_SECONDS = 60.0


class ServiceProcess:
    """`chorus serve <service>` on a port of its own. It never outlives the test run."""

    def __init__(
        self,
        service: str,
        installation: Installation,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        self.service = service
        self.name = name or service
        self.port = private_port()
        self.url = f"http://127.0.0.1:{self.port}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
        self.child = self._child(
            ["serve", service, "--port", str(self.port)],
            folder / f"{self.name}-{self.port}.log",
            inherited | installation.environment | dict(settings or {}),
        )

    def _child(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Child:
        return Child(
            self.name,
            [sys.executable, "-m", "ops", *command],
            log=log,
            environment=environment,
            folder=Path(__file__).parents[2],
        )

    async def start(self) -> "ServiceProcess":
        """Start it and wait until it is ready."""
        self.launch()
        await self.ready()
        return self

    def launch(self) -> None:
        """Start it without waiting."""
        self.child.start()

    async def ready(self) -> None:
        """Wait until it reports that it is ready. Raises ChildFailed if it ends instead."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:

            async def answers() -> bool:
                if not self.child.running:
                    raise ChildFailed(
                        f"{self.name} ended with status {self.child.exit_status}\n{self.log}"
                    )
                try:
                    return (await http.get(f"{self.url}/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(answers, within=START_SECONDS, what=f"{self.name} is not ready")

    def http(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client of the process."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            trust_env=False,
            timeout=60,
            **options,
        )

    def kill(self) -> None:
        """As if the power had gone."""
        self.child.kill()

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        self.child.ask_to_stop()

    async def ended(self, within: float = 30) -> int:
        """Wait for its end; its exit status."""

        async def gone() -> bool:
            return not self.child.running

        await eventually(gone, within=within, what=f"{self.name} does not end")
        status = self.child.exit_status
        assert status is not None
        return status

    async def stop(self) -> int:
        """Ask it to end and wait; its exit status."""
        self.terminate()
        return await self.ended()

    @property
    def log(self) -> str:
        """Everything that it has written."""
        path = self.child.log
        return path.read_text(errors="replace") if path.exists() else ""


class Processes:
    """The processes of one test, or of one module."""

    def __init__(self, folder: Path, kind: type[ServiceProcess] = ServiceProcess) -> None:
        self._folder = folder
        self._kind = kind
        self._all: list[ServiceProcess] = []

    def of(
        self,
        service: str,
        installation: Installation,
        *,
        settings: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> ServiceProcess:
        """A process that has yet to be started."""
        made = self._kind(service, installation, self._folder, settings=settings, name=name)
        self._all.append(made)
        return made

    async def start(
        self,
        installation: Installation,
        *services: str,
        settings: Mapping[str, str] | None = None,
    ) -> list[ServiceProcess]:
        """Start several services side by side and wait until all are ready."""
        made = [self.of(service, installation, settings=settings) for service in services]
        for process in made:
            process.launch()
        await asyncio.gather(*(process.ready() for process in made))
        return made

    async def stop(self) -> None:
        """End all; what does not end in time is killed. pytest shows the logs if the test has failed."""
        for process in self._all:
            process.terminate()
        for process in self._all:
            try:
                await process.ended(within=20)
            finally:
                process.kill()
                sys.stderr.write(f"--- log of {process.name} ---\n{process.log[-8000:]}\n")


@asynccontextmanager
async def frozen(child: Child) -> AsyncIterator[None]:
    """A process and everything below it stand still in this block. Raises ChildFailed if it does not run."""
    child.check()
    pids = child.family()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
