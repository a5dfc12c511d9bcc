"""Describes the machine and the versions of a run."""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx

from tools.servers import PrivateServers
from tools.servers.install import postgres_programs

LIBRARIES: Final = ("fastapi", "faststream", "aio-pika", "asyncpg", "uvicorn", "uvloop", "pydantic")


def describe(servers: PrivateServers) -> dict[str, str]:
    """The description, by topic."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{_processor()}, {os.cpu_count()} cores, shared by all",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": f"{_postgres()}, default configuration, fsync on, with commit timestamps",
        "RabbitMQ": _rabbitmq(servers),
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        "load before": f"{os.getloadavg()[0]:.1f} processes in the minute before the start",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _postgres() -> str:
    version = subprocess.run(
        [postgres_programs() / "postgres", "--version"], check=True, capture_output=True, text=True
    ).stdout
    return version.split()[2]


def _rabbitmq(servers: PrivateServers) -> str:
    answer = httpx.get(f"{servers.rabbitmq.api_url}/api/overview", trust_env=False)
    answer.raise_for_status()
    overview = answer.json()
    return f"{overview['rabbitmq_version']} on Erlang {overview['erlang_version']}"
