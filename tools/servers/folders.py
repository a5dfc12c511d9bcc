"""A folder for each run, removed at its end. Folders of killed runs are removed by the next run.

A run holds a file lock in its folder while it lives, so a folder whose lock is free has no owner.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = Path("/var/tmp")  # noqa: S108  # on disk, unlike /tmp on many systems


def project_folder() -> Path:
    """The checkout that contains this file."""
    return Path(__file__).resolve().parents[2]


@contextmanager
def run_folder(base: Path | None = None) -> Iterator[Path]:
    """A new folder below `base` (.chorus in the checkout by default) that the accounts of the servers can enter."""
    base = base or project_folder() / ".chorus"
    for folder in (*base.glob("run-*"), *_TEMPORARY.glob("chorus-run-*")):
        _remove_abandoned(folder)
    folder = _make(base)
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the next run removes what is left
        os.close(lock)


def unprivileged(preferred: str) -> pwd.struct_passwd | None:
    """The account of a server if this process is root; None otherwise: the server then has the same account.

    PostgreSQL refuses to run as root, and RabbitMQ should not run as root either.
    """
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get(preferred) or accounts["nobody"]


def _make(base: Path) -> Path:
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    except OSError as error:
        return _make_temporary(f"{base} cannot be written ({error.strerror})")
    # The accounts of the servers may pass, and each may read its own folder only.
    folder.chmod(0o711)
    for name in ("postgres", "rabbitmq"):
        account = unprivileged(name)
        if account is not None and not _may_enter(folder, account):
            folder.rmdir()
            return _make_temporary(f"the account {account.pw_name} cannot enter {base}")
    return folder


def _may_enter(folder: Path, account: pwd.struct_passwd) -> bool:
    """Whether the account has access to the folder, through all folders above it."""
    test = subprocess.run(
        ["test", "-x", folder],
        user=account.pw_uid, group=account.pw_gid, extra_groups=[], check=False,
    )  # fmt: skip
    return test.returncode == 0


def _make_temporary(reason: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="chorus-run-", dir=_TEMPORARY))
    folder.chmod(0o711)
    print(f"The data of the servers is in {folder}: {reason}.", file=sys.stderr)
    return folder


def _lock(folder: Path) -> int:
    # Locked before it gets its name, so that a parallel run never sees it unlocked.
    unlocked = folder / "lock.new"
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unlocked.rename(folder / "lock")
    return lock


def _remove_abandoned(folder: Path) -> None:
    path = folder / "lock"
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or not path.exists():
        return
    with path.open("rb") as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
