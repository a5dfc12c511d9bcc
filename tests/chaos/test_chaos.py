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
ORDERS_PER_MINUTE = 300
"""A tenth of what a machine does that has nothing else to do; this one runs other tests, and may be slow."""


@pytest.mark.timeout(600)  # seconds: three minutes, starts, and rest
async def test_nothing_is_lost_and_nothing_doubled_while_everything_fails() -> None:
    try:
        install_missing("postgresql", "rabbitmq", "faketime")
    except CannotRun as missing:
        pytest.skip(f"servers as processes are needed, to be killed and frozen: {missing}")
    arguments = ["--minutes", str(MINUTES), "--orders", str(ORDERS_PER_MINUTE)]
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
