"""Where private servers keep their data: a folder for each run, deleted with it; and their ports."""

import socket
import subprocess
import sys
from pathlib import Path

from tools.servers.folders import run_folder
from tools.servers.ports import is_free, port_near, private_port


def test_a_run_deletes_its_folder(tmp_path: Path) -> None:
    with run_folder(tmp_path) as folder:
        (folder / "data").mkdir()

    assert not folder.exists()


def test_the_folder_of_a_killed_run_is_deleted_by_the_next_run(tmp_path: Path) -> None:
    left = tmp_path / "run-left"
    left.mkdir()
    (left / "lock").touch()

    with run_folder(tmp_path):
        assert not left.exists()


def test_the_folder_of_a_running_run_is_kept(tmp_path: Path) -> None:
    with run_folder(tmp_path) as first, run_folder(tmp_path) as second:
        assert first.exists()
        assert first != second


def test_other_files_are_kept(tmp_path: Path) -> None:
    other = tmp_path / "run-notes"
    other.mkdir()

    with run_folder(tmp_path):
        assert other.exists()


def test_a_busy_port_is_skipped() -> None:
    busy = private_port()
    with socket.socket() as consumer:
        consumer.bind(("127.0.0.1", busy))
        consumer.listen()

        assert not is_free(busy)
        assert (port_near(busy) - busy) % 10 == 0


STARTS = """
from tools.servers.ports import port_near, private_port
print(port_near({usual}), *(private_port() for _ in range(40)), flush=True)
input()
"""


def test_starts_at_the_same_moment_choose_different_ports() -> None:
    """The ports are bound later, if at all."""
    code = STARTS.format(usual=private_port())
    command = [sys.executable, "-c", code]
    starts = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    try:
        chosen = [
            port for start in starts if start.stdout for port in start.stdout.readline().split()
        ]
    finally:
        for start in starts:
            start.communicate("\n")
    assert len(chosen) == 6 * 41
    assert len(set(chosen)) == len(chosen)
