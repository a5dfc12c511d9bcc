"""Operator's commands find the system that `chorus up` runs, without a setting."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tools import running
from tools.children import CannotRun
from tools.docker import docker_answers
from tools.running import FILE, adopt, announce
from tools.servers.folders import run_folders
from tools.servers.install import install_missing

NOTHING_SET = {name: value for name, value in os.environ.items() if not name.startswith("CHORUS_")}


async def chorus(*arguments: str) -> tuple[int | None, str, str]:
    """Run a command; returns exit status, output and errors."""
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", *arguments, env=NOTHING_SET,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await command.communicate()
    return command.returncode, output.decode(), errors.decode()


@asynccontextmanager
async def up(kind: str) -> AsyncIterator[Path]:
    """A system that `chorus up` runs; its folder."""
    before = set(run_folders())
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "up", f"--{kind}", env=NOTHING_SET,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert started.stdout is not None
    try:
        printed = await asyncio.wait_for(started.stdout.readuntil(b"Ctrl-C stops"), 240)
        assert b".venv/bin/chorus status" in printed
        [folder] = [folder for folder in set(run_folders()) - before if (folder / FILE).exists()]
        yield folder
    finally:
        started.send_signal(signal.SIGINT)
        await started.communicate()


@pytest.mark.timeout(400)  # seconds: an image may be built
@pytest.mark.parametrize("kind", ["native", "docker"])
async def test_commands_find_the_running_system(kind: str) -> None:
    if kind == "docker" and not docker_answers():
        pytest.skip("no Docker engine answers")
    try:
        install_missing("postgresql", "rabbitmq")
    except CannotRun as missing:
        pytest.skip(f"servers as processes are needed: {missing}")

    async with up(kind) as folder:
        assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
        status, output, errors = await chorus("status", "--json")
        assert json.loads(output)["wrong"] == [], errors
        assert status == 0
        assert str(folder) in errors
        assert (await chorus("audit"))[0] == 0
        assert (await chorus("topology", "--check"))[:2] == (0, "")

    assert not folder.exists()


async def test_without_a_running_system_the_missing_setting_is_named() -> None:
    if any((folder / FILE).exists() for folder in run_folders()):
        pytest.skip("a system runs in this checkout")
    status, _, errors = await chorus("status")
    assert status == 2
    assert "CHORUS_DATABASE_URL_USERS" in errors


def test_the_file_of_a_killed_run_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "run-killed"
    killed.mkdir()
    (killed / "lock").touch()
    announce(killed, {"CHORUS_OPERATOR_EMAIL": "of a killed run"})
    monkeypatch.setattr(running, "run_folders", lambda: [killed])
    monkeypatch.setattr(os, "environ", dict(NOTHING_SET))
    adopt(["status"])
    assert os.environ == NOTHING_SET
