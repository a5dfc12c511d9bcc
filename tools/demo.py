"""`chorus demo`: everything runs, and the story of one customer is played against it by HTTP alone."""

from ops.console import console
from tools.children import CannotRun
from tools.story import Story, StoryFailed
from tools.system import show_addresses
from tools.up import choose_mode, running_system, stay


def demo(*, leave: bool, docker: bool, native: bool) -> None:
    """Play the story; stay until Ctrl-C unless `leave`. Raises CannotRun if a step was not as told."""
    with running_system(choose_mode(docker=docker, native=native)) as system:
        try:
            with Story(system.addresses) as story:
                story.play()
        except StoryFailed as failure:
            raise CannotRun(f"{failure}\n{system.log(failure.part)}") from None
        console.print("\n  [bold green]The story went as told.[/]\n")
        show_addresses(system.addresses)
        if not leave:
            stay(system)
