"""The terminal that commands write to."""

from typing import Final

from rich.console import Console

console: Final = Console(highlight=False, soft_wrap=True)
