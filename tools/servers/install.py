"""Finds the programs of the servers, and installs missing ones as root on Debian."""

import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Literal, NoReturn

from tools.children import CannotRun

Package = Literal["postgresql", "rabbitmq", "faketime"]
_DEBIAN: dict[Package, str] = {
    "postgresql": "postgresql",
    "rabbitmq": "rabbitmq-server",
    "faketime": "libfaketime",
}
_POLICY = Path("/usr/sbin/policy-rc.d")
_NO_STARTS = "#!/bin/sh\n# Written by chorus while it installs packages.\nexit 101\n"


class ServersMissing(CannotRun):
    """A server is not installed and cannot be installed from here."""


def postgres_programs() -> Path:
    """The folder of initdb and postgres; the newest, if several versions are installed. Raises ServersMissing."""
    return _find("postgresql") or _missing("postgresql")


def rabbitmq_server() -> Path:
    """The program that starts RabbitMQ. Raises ServersMissing."""
    return _find("rabbitmq") or _missing("rabbitmq")


def faketime_library() -> Path:
    """The library that moves the clock of a process that preloads it. Raises ServersMissing."""
    return _find("faketime") or _missing("faketime")


def _find(package: Package) -> Path | None:
    if package == "rabbitmq":
        # Debian's command requires the system's account and folders. The program that it calls does not.
        return _which("rabbitmq-server", "/usr/lib/rabbitmq/bin") or _which("rabbitmq-server")
    if package == "faketime":
        library = "faketime/libfaketimeMT.so.1"
        return next(
            chain(*(Path("/usr").glob(f"{lib}/{library}") for lib in ("lib/*", "lib*"))), None
        )
    installed = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    installed.sort(key=lambda folder: -int(re.sub(r"\D", "", folder.parent.name) or 0))
    if initdb := _which("initdb"):
        installed.append(initdb.resolve().parent)
    return next((f for f in installed if _which("initdb", f) and _which("postgres", f)), None)


def _which(program: str, path: str | Path | None = None) -> Path | None:
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def install_missing(*packages: Package) -> None:
    """Install by apt-get what is missing of these, as root on Debian. Elsewhere raises ServersMissing with advice."""
    missing = [package for package in packages if _find(package) is None]
    if missing and not may_install():
        _missing(*missing)
    if missing:
        install_packages(*(_DEBIAN[package] for package in missing))


def may_install() -> bool:
    """Whether packages can be installed without a question: as root, on Debian."""
    debian = Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None
    return os.geteuid() == 0 and debian


def install_packages(*packages: str) -> None:
    """Install packages by apt-get. Their servers are not started, now or at boot. Raises ServersMissing."""
    names = " and ".join(packages)
    print(f"Installing {names} with apt-get. This takes about a minute.", file=sys.stderr)
    _apt_get("update")
    # While this policy exists, Debian starts no server that it installs: it would take the usual port.
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    _POLICY.write_text(_NO_STARTS)
    _POLICY.chmod(0o755)
    try:
        _apt_get("install", "-y", "--no-install-recommends", *packages)
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before)
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", *packages], check=False, capture_output=True)


def _missing(*missing: Package) -> NoReturn:
    packages = " ".join(_DEBIAN[package] for package in missing)
    raise ServersMissing(
        f"Not installed here: {', '.join(missing)}. As root on Debian or Ubuntu: apt-get install {packages}\n"
        "(Chorus runs private servers with these programs. The servers that the packages start can be stopped:\n"
        f"systemctl disable --now {packages}.) With Docker running, nothing has to be installed."
    )


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    process = subprocess.Popen(
        ["apt-get", "-q", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate()
    except BaseException:
        # Ctrl-C: let apt-get finish its step, so that no package stays half-installed.
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode:
        raise ServersMissing(f"apt-get {' '.join(arguments)} failed:\n{output[-4000:]}")
