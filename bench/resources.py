"""What processes spend of processor and memory, each with all that stands below it, read from /proc."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Units of processor time in a second."""

PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_USER: Final = 11
"""Where a process' own processor time stands in /proc/PID/stat behind the name; three more fields follow it: in the
system, and both again for children that have ended."""


def _stats() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may contain anything.
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue


def families(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """Each root with all processes below it."""
    children: dict[int, list[int]] = {}
    for pid, fields in _stats():
        children.setdefault(int(fields[1]), []).append(pid)
    found = {}
    for name, root in roots.items():
        family = [root]
        for pid in family:
            family += children.get(pid, [])
        found[name] = family
    return found


def processor_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """What each family has spent so far, those of its processes that have ended included."""
    spent = {pid: sum(map(int, fields[_USER : _USER + 4])) for pid, fields in _stats()}
    return {
        name: sum(spent.get(pid, 0) for pid in family) / TICKS
        for name, family in families(roots).items()
    }


def machine_seconds() -> float:
    """What the whole machine has spent so far, by anybody."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def memory_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """What each family holds: proportional set size, in which a page that several share is shared among them."""
    return {
        name: sum(_proportional(pid) for pid in family) for name, family in families(roots).items()
    }


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:
        return _resident(pid)
    except OSError:  # it ended while we looked
        return 0
    return 0


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0
