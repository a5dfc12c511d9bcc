"""What the commands say to a person, and how."""

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
    """A span of time as a person says it."""
    return f"{spent * 1000:.0f} ms" if spent < 1 else f"{spent:.1f} s"


@contextmanager
def phase(doing: str, done: str) -> Iterator[None]:
    """A part of the start that takes a while: what is being done, then what is done and how long it took."""
    begun = time.monotonic()
    with console.status(f"{doing} ..."):
        yield
    console.print(f"  [green]✓[/] {done:<58} [dim]{seconds(time.monotonic() - begun):>7}[/]")


@contextmanager
def reported_plainly() -> Iterator[None]:
    """Runs a command for a person: what fails is said in words, and Ctrl-C cleans up and leaves."""
    try:
        with _stoppable():
            yield
    except CannotRun as error:
        console.print(f"\n  [red]✗[/] {escape(str(error))}\n")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("\n  Stopped.")
        raise typer.Exit(130) from None


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the block once, as KeyboardInterrupt; then we clean up undisturbed."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
