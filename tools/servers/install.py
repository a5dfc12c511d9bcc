"""Finding the servers' programs, and installing them where that is possible without asking."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tools.children import CannotRun

Server = Literal["postgresql", "rabbitmq"]
_PACKAGES: dict[Server, str] = {"postgresql": "postgresql", "rabbitmq": "rabbitmq-server"}
_POLICY = Path("/usr/sbin/policy-rc.d")
_NOTHING_STARTS = "#!/bin/sh\n# Written by chorus while it installs packages.\nexit 101\n"


class ServersMissing(CannotRun):
    """A server is not installed and cannot be installed from here."""


def postgres_programs() -> Path:
    """The folder with initdb and postgres, the newest if there are several."""
    found = _postgres_programs()
    if found is None:
        raise ServersMissing(_advice(["postgresql"]))
    return found


def rabbitmq_server() -> Path:
    found = _rabbitmq_server()
    if found is None:
        raise ServersMissing(_advice(["rabbitmq"]))
    return found


def _postgres_programs() -> Path | None:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/").glob("usr/pgsql-*/bin")]
    places.sort(
        key=lambda place: int("".join(filter(str.isdigit, place.parent.name)) or 0), reverse=True
    )
    on_path = shutil.which("initdb")
    if on_path:
        places.append(Path(on_path).resolve().parent)
    return next(
        (
            place
            for place in places
            if (place / "initdb").exists() and (place / "postgres").exists()
        ),
        None,
    )


def _rabbitmq_server() -> Path | None:
    # Debian's own command insists on the system's account and folders; the program behind it does not.
    direct = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    on_path = shutil.which("rabbitmq-server")
    return direct if direct.exists() else Path(on_path) if on_path else None


def install_missing(*servers: Server) -> None:
    """Installs by apt what is missing of these, if we are root on Debian; raises ServersMissing with advice if not."""
    present = {"postgresql": _postgres_programs, "rabbitmq": _rabbitmq_server}
    missing = [server for server in servers if present[server]() is None]
    if not missing:
        return
    if not may_install():
        raise ServersMissing(_advice(missing))
    install_packages(*(_PACKAGES[server] for server in missing))


def may_install() -> bool:
    """Whether packages can be installed without asking: as root, on Debian."""
    debian = Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None
    return os.geteuid() == 0 and debian


def install_packages(*packages: str) -> None:
    """Installs packages by apt; no server in them starts, now or at boot. Raises ServersMissing."""
    print(
        f"Installing {' and '.join(packages)} by apt-get: a minute or so.",
        file=sys.stderr,
        flush=True,
    )
    _apt_get("update")
    with _nothing_starts():
        _apt_get("install", "-y", "--no-install-recommends", *packages)
    _not_at_boot(packages)


def _advice(missing: list[Server]) -> str:
    packages = " ".join(_PACKAGES[server] for server in missing)
    return (
        f"Not installed here: {', '.join(missing)}. As root on Debian or Ubuntu: apt-get install {packages}\n"
        "(Chorus runs private servers of its own with these programs; the ones that the package starts may be\n"
        f"stopped: systemctl disable --now {packages}.) With a running Docker nothing of this is needed."
    )


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    process = subprocess.Popen(
        ["apt-get", "-q", *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate()
    except (
        BaseException
    ):  # Ctrl-C: a half-installed package is worse than the seconds that apt takes to stop
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode:
        raise ServersMissing(f"apt-get {' '.join(arguments)} failed:\n{output[-4000:]}")


@contextmanager
def _nothing_starts() -> Iterator[None]:
    """A server that is being installed must not start by itself on its usual port: Debian asks this file."""
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    _POLICY.write_text(_NOTHING_STARTS)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before)


def _not_at_boot(packages: Sequence[str]) -> None:
    """Nor must it start with the machine: we only want its programs."""
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", *packages], check=False, capture_output=True)
