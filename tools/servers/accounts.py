"""PostgreSQL refuses to run as root, and RabbitMQ should not either: which account they get then."""

import os
import pwd
import stat
from pathlib import Path


def unprivileged(preferred: str) -> pwd.struct_passwd | None:
    """The account for a server, or None if we are not root: then it runs as ourselves."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get(preferred) or accounts["nobody"]


def may_enter(folder: Path, account: pwd.struct_passwd) -> bool:
    """Whether the account can pass through every folder on the way, itself included."""
    return all(_may_pass(step.stat(), account) for step in [folder, *folder.parents])


def _may_pass(status: os.stat_result, account: pwd.struct_passwd) -> bool:
    if status.st_uid == account.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def folder_for(account: pwd.struct_passwd | None, path: Path) -> Path:
    """Makes a folder that only this account may look into."""
    path.mkdir(mode=0o700)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
    return path


def give(account: pwd.struct_passwd | None, path: Path, text: str, *, mode: int = 0o600) -> Path:
    """Writes a file that belongs to the account."""
    path.write_text(text)
    path.chmod(mode)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)
    return path
