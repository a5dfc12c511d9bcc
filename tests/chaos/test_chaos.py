"""Three minutes of chaos with a new random seed. It is printed, and reproduces the same faults."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.chaos.verdict import GREEN
from tools.children import CannotRun
from tools.servers.install import install_missing

MINUTES = 3


@pytest.mark.timeout(
    1200
)  # seconds: three minutes, starts, and rest, on a machine that runs other tests
async def test_nothing_is_lost_and_nothing_doubled_while_everything_fails() -> None:
    try:
        install_missing("postgresql", "rabbitmq", "faketime")
    except CannotRun as missing:
        pytest.skip(f"servers as processes are needed, to be killed and frozen: {missing}")
    arguments = ["--minutes", str(MINUTES)]
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos", *arguments,
        cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, logs = await running.communicate()
    finally:
        if running.returncode is None:
            os.kill(running.pid, signal.SIGTERM)
            await running.wait()
    sys.stdout.write(output.decode())
    sys.stderr.write(logs.decode(errors="replace")[-80_000:])
    assert running.returncode == GREEN, output.decode()[-4000:]
