"""Where private servers keep their data: a folder for each run, deleted with it."""

import socket
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
        assert port_near(busy) > busy
        assert (port_near(busy) - busy) % 10 == 0
