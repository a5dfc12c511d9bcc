"""`chorus serve` when a service cannot start: its exit status, and what it says."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.fixtures import Install

ROOT = Path(__file__).parents[3]


async def serve_orders(settings: Mapping[str, str]) -> tuple[int | None, str]:
    """The exit status, and the output, with these settings of Chorus and no others."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "serve", "orders",
        cwd=ROOT, env=inherited | dict(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.parametrize("missing", ["CHORUS_DATABASE_URL_ORDERS", "CHORUS_AMQP_URL_ORDERS"])
async def test_a_missing_setting_is_named_in_one_line(
    install_chorus: Install, missing: str
) -> None:
    chorus = await install_chorus("unset", "orders")
    settings = {name: value for name, value in chorus.environment.items() if name != missing}
    status, output = await serve_orders(settings)
    assert (status, output) == (
        2,
        f"chorus: {missing} is not set; docs/settings.md lists the settings\n",
    )


async def test_a_wrong_url_is_named_in_one_line_without_the_password(
    install_chorus: Install,
) -> None:
    chorus = await install_chorus("unset", "orders")
    url = chorus.database_url("orders") + "?ssl=true"
    status, output = await serve_orders({**chorus.environment, "CHORUS_DATABASE_URL_ORDERS": url})
    line = "chorus: CHORUS_DATABASE_URL_ORDERS is not a PostgreSQL URL that can be used: there is no parameter ssl\n"
    assert (status, output) == (2, line)


async def test_a_service_that_its_database_refuses_ends_with_status_1(
    install_chorus: Install,
) -> None:
    chorus = await install_chorus("refused", "orders")
    url = chorus.database_url("orders").replace(chorus.password, "wrong")
    status, output = await serve_orders({**chorus.environment, "CHORUS_DATABASE_URL_ORDERS": url})
    assert status == 1
    assert "service.cannot_start" in output


STUBBORN = """
import asyncio, sys
from chassis.runtime.service import Service
from ops.main import main

start = Service.start

async def never_cancelled():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def started(self):
    await start(self)
    self.stubborn = asyncio.get_running_loop().create_task(never_cancelled())

Service.start = started
sys.argv = ["chorus", "serve", "orders", "--port", "0"]
main()
"""
"""A service with a task that ignores its cancellation, as connections of aio-pika may."""


async def test_a_process_ends_although_a_task_ignores_its_cancellation(
    install_chorus: Install,
) -> None:
    chorus = await install_chorus("stubborn", "orders")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STUBBORN, cwd=ROOT, env=dict(os.environ) | chorus.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while b"service.started" not in await process.stdout.readline():
                pass
            process.terminate()
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert b"service.stopped" in output
    assert process.returncode == 0


FAULTY = """
import asyncio, resource, sys, time
from pathlib import Path
from chassis.runtime.service import Service
from ops.main import main

start = Service.start
kept = []

async def dies_of_a_lack_of_memory():
    await asyncio.sleep(0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for size in (1 << 20, 1 << 12, 1 << 6):
        try:
            while True:
                kept.append(bytearray(size))
        except MemoryError:
            if size == 1 << 6:
                raise

async def blocks_the_event_loop():
    time.sleep(3600)

async def started(self):
    self.run(faulty=globals()[fault])
    await start(self)

fault = sys.argv[1]
Service.start = started
sys.argv = ["chorus", "serve", "orders", "--port", "0"]
main()
"""
"""A service with a background task that dies while there is no memory, or that does not return to the event loop."""


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        # libuv and the C library abort where they get no memory and cannot go on.
        ("dies_of_a_lack_of_memory", {1, -signal.SIGABRT}),
        ("blocks_the_event_loop", {1}),
    ],
)
async def test_a_process_ends_whatever_holds_its_event_loop(
    install_chorus: Install, fault: str, statuses: set[int]
) -> None:
    chorus = await install_chorus("held", "orders")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FAULTY, fault, cwd=ROOT, env=dict(os.environ) | chorus.environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):  # ten seconds, and a start on a busy machine
            assert await process.wait() in statuses
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
