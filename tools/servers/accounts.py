"""The account of a private server. PostgreSQL refuses to run as root, and RabbitMQ should not run as root either."""

import os
import pwd
import subprocess
from pathlib import Path


def unprivileged(preferred: str) -> pwd.struct_passwd | None:
    """The account for a server if this process is root. None otherwise: the server then has the same account."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get(preferred) or accounts["nobody"]


def may_enter(folder: Path, account: pwd.struct_passwd) -> bool:
    """Whether the account has access to the folder, through all folders above it."""
    test = subprocess.run(
        ["test", "-x", folder],
        user=account.pw_uid, group=account.pw_gid, extra_groups=[], check=False,
    )  # fmt: skip
    return test.returncode == 0
