"""Processes that `chorus up` and the tests start: none of them outlives its parent."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tools.children import Child, ChildFailed

SLEEPER = "import time; time.sleep(60)"
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"
STARTER = """
import os, sys
from pathlib import Path
from tools.children import Child
child = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], log=Path(sys.argv[1]), environment={})
child.start()
print(child.pid, flush=True)
sys.stdin.read()
"""


def a_child(folder: Path, code: str) -> Child:
    return Child("the child", [sys.executable, "-c", code], log=folder / "log", environment={})


def below(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def is_there(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


def a_child_of_a_killed_parent(folder: Path) -> int:
    command = [sys.executable, "-c", STARTER, str(folder / "log")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_there(child)
        parent.kill()
    return child


async def test_a_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    child = await asyncio.to_thread(a_child_of_a_killed_parent, tmp_path)

    async def is_gone() -> bool:
        return not is_there(child)

    await eventually(is_gone)


async def test_killing_a_child_kills_its_descendants(tmp_path: Path) -> None:
    child = a_child(tmp_path, FAMILY)
    child.start()

    async def grandchildren() -> list[int]:
        found = below(child.pid)
        assert found
        return found

    family = await eventually(grandchildren)
    child.kill()

    async def are_gone() -> bool:
        return not any(is_there(pid) for pid in family)

    await eventually(are_gone)
    assert child.exit_status == -signal.SIGKILL


def test_a_child_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    child = a_child(tmp_path, deaf)
    child.start()
    child.wait_until(lambda: "deaf" in child.tail(), within=20)

    child.stop(within=0.2)

    assert child.exit_status == -signal.SIGKILL


def test_a_child_that_ends_too_early_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = a_child(tmp_path, "raise SystemExit('no such database')")
    child.start()

    with pytest.raises(ChildFailed, match=r"(?s)the child ended with status 1.*no such database"):
        child.wait_until(lambda: False, within=20)


def test_a_child_can_be_started_again_after_it_was_killed(tmp_path: Path) -> None:
    child = a_child(tmp_path, SLEEPER)
    child.start()
    first = child.pid
    child.kill()

    child.start()

    assert child.running
    assert child.pid != first
    child.kill()


def test_ctrl_c_in_the_terminal_does_not_reach_the_children(tmp_path: Path) -> None:
    child = a_child(tmp_path, SLEEPER)
    child.start()

    assert os.getpgid(child.pid) != os.getpgrp()
    child.kill()
