"""A folder for each run, gone with it; what killed runs left is swept when the next one starts.

The owner of a folder holds a lock in it as long as it lives, so a folder whose lock is free belongs to nobody.
"""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.servers.accounts import may_enter, unprivileged

_TEMPORARY = Path("/var/tmp")  # noqa: S108  # on disk, unlike /tmp on many systems
_LOCK = "lock"


def project_folder() -> Path:
    """The checkout that this file lies in, or the current folder if Chorus is installed as a package."""
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


@contextmanager
def run_folder(base: Path | None = None) -> Iterator[Path]:
    """A new folder below `base` (the project's .chorus by default) that the servers' accounts can reach."""
    base = base or project_folder() / ".chorus"
    for place, pattern in ((base, "run-*"), (_TEMPORARY, "chorus-run-*")):
        _sweep(place, pattern)
    folder = _make(base)
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what is left will be swept
        os.close(lock)


def _make(base: Path) -> Path:
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    except OSError as error:
        return _elsewhere(f"{base} cannot be written ({error.strerror})")
    folder.chmod(0o711)  # the servers' accounts pass through, and look into their own parts only
    for name in ("postgres", "rabbitmq"):
        account = unprivileged(name)
        if account is not None and not may_enter(folder, account):
            folder.rmdir()
            return _elsewhere(f"the account {account.pw_name} cannot enter {base}")
    return folder


def _elsewhere(reason: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="chorus-run-", dir=_TEMPORARY))
    folder.chmod(0o711)
    print(f"The servers' data lies in {folder}: {reason}.", file=sys.stderr)
    return folder


def _lock(folder: Path) -> int:
    # Locked before it gets its name: a sweeper that runs meanwhile never sees it free.
    unlocked = folder / f"{_LOCK}.new"
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unlocked.rename(folder / _LOCK)
    return lock


def _sweep(place: Path, pattern: str) -> None:
    for folder in place.glob(pattern):
        if (
            folder.is_symlink()
            or folder.stat().st_uid != os.geteuid()
            or not (folder / _LOCK).exists()
        ):
            continue
        with (folder / _LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
