"""Terminal output of the commands: progress, durations, and failures as one line."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.markup import escape

from ops.console import console
from tools.children import CannotRun


def seconds(spent: float) -> str:
    """A duration, formatted for people."""
    return f"{spent * 1000:.0f} ms" if spent < 1 else f"{spent:.1f} s"


@contextmanager
def phase(doing: str, done: str) -> Iterator[None]:
    """Show `doing` while the block runs, then `done` and how long it took."""
    started = time.monotonic()
    with console.status(f"{doing} ..."):
        yield
    console.print(f"  [green]✓[/] {done:<58} [dim]{seconds(time.monotonic() - started):>7}[/]")


@contextmanager
def reported_plainly() -> Iterator[None]:
    """Run a command to its end: CannotRun is printed as a message with exit status 1, Ctrl-C ends with status 130.

    SIGTERM and SIGHUP are like Ctrl-C. Only the first signal counts, so that the cleanup completes.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, stop)
    try:
        yield
    except CannotRun as error:
        console.print(f"\n  [red]✗[/] {escape(str(error))}\n")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("\n  Stopped.")
        raise typer.Exit(130) from None
