"""The processes of one contestant: its services, and with mail an SMTP sink."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.contestants import Contestant
from bench.environment import Environment, Installation
from bench.resources import memory_bytes
from tools.children import Child, ChildFailed
from tools.servers.folders import project_folder
from tools.servers.ports import private_port

READY_SECONDS = 60.0
STOP_SECONDS = 15.0


class Processes:
    """A running contestant."""

    def __init__(
        self, contestant: Contestant, installation: Installation, folder: Path, *, mail: bool
    ) -> None:
        self.contestant = contestant
        self.installation = installation
        self.mail = mail
        self.idle: dict[str, int] = {}
        """The memory of its processes right after the start, in bytes."""
        self.urls = {s: f"http://127.0.0.1:{private_port()}" for s in contestant.services}
        # Without mail nothing listens on this port: notifications are stored, and stay unsent.
        smtp_port = private_port()
        own = {
            **inherited(),
            **installation.environment_variables(),
            **{f"BENCH_URL_{service.upper()}": url for service, url in self.urls.items()},
            "CHORUS_SMTP_PORT": str(smtp_port),
        }
        self.children = {
            service: _child(
                f"{contestant.name}-{service}",
                [*contestant.command, service, f"--port={_port(url)}"],
                folder,
                own,
            )
            for service, url in self.urls.items()
        }
        if mail:
            command = [sys.executable, "-m", "bench.smtp_sink", f"--port={smtp_port}"]
            self.children["SMTP sink"] = _child("smtp-sink", command, folder, own)

    @property
    def roots(self) -> dict[str, int]:
        """The process ids by name."""
        return {name: child.pid for name, child in self.children.items() if child.running}

    async def start(self) -> None:
        """Start everything, and wait until it is ready. Raises ChildFailed."""
        for child in self.children.values():
            child.start()
        await asyncio.gather(*map(self.ready, self.urls))
        self.idle = memory_bytes(self.roots)

    async def ready(self, service: str) -> None:
        """Wait until a service is ready. Raises ChildFailed if it ends before that, or takes too long."""
        child = self.children[service]
        deadline = time.monotonic() + READY_SECONDS
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            while not await _answers(http, f"{self.urls[service]}/ready"):
                if not child.running:
                    raise ChildFailed(
                        f"{child.name} ended with status {child.exit_status}\n{child.tail()}"
                    )
                if time.monotonic() > deadline:
                    raise ChildFailed(f"{child.name} was not ready\n{child.tail()}")
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Stop everything; kill what does not stop in time."""
        for child in self.children.values():
            child.ask_to_stop()
        for child in self.children.values():
            child.stop(within=STOP_SECONDS)


def inherited() -> Mapping[str, str]:
    """The environment variables of this process, without those of Chorus and the benchmark."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("CHORUS_", "BENCH_"))}


def _port(url: str) -> str:
    return url.rpartition(":")[2]


def _child(name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> Child:
    return Child(
        name, command, log=folder / f"{name}.log", environment=environment, folder=project_folder()
    )


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).is_success
    except httpx.TransportError:
        return False


@asynccontextmanager
async def running(
    environment: Environment, contestant: Contestant, *, mail: bool = False, name: str = ""
) -> AsyncIterator[Processes]:
    """Run a contestant on its databases, which it keeps between runs. `name` selects other databases."""
    installation = await environment.install(contestant, name)
    processes = Processes(contestant, installation, environment.folder, mail=mail)
    try:
        await processes.start()
        yield processes
    finally:
        processes.stop()
    if contestant.settles:
        await environment.complete_work(installation)
