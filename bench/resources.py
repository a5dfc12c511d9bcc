"""Processor time and memory of process trees, read from /proc."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Units of processor time in a second."""

PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_USER: Final = 11
"""The index of utime in /proc/PID/stat behind the name. stime, cutime and cstime follow (proc(5))."""


def _stats() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may contain spaces and brackets.
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue


def trees(roots: Mapping[str, int]) -> dict[str, list[int]]:
    """The process ids of each root and its descendants."""
    children: dict[int, list[int]] = {}
    for pid, fields in _stats():
        children.setdefault(int(fields[1]), []).append(pid)
    found = {}
    for name, root in roots.items():
        tree = [root]
        for pid in tree:
            tree += children.get(pid, [])
        found[name] = tree
    return found


def processor_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """The processor time of each tree so far, including processes that have ended."""
    spent = {pid: sum(map(int, fields[_USER : _USER + 4])) for pid, fields in _stats()}
    return {
        name: sum(spent.get(pid, 0) for pid in tree) / TICKS for name, tree in trees(roots).items()
    }


def machine_seconds() -> float:
    """The processor time of all processes of the machine so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def memory_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """The proportional set size of each tree: a page that several processes share is divided among them."""
    return {name: sum(_proportional(pid) for pid in tree) for name, tree in trees(roots).items()}


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:
        return _resident(pid)
    except OSError:  # it has ended
        return 0
    return 0


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0
