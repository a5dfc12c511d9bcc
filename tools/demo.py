"""`chorus demo`: starts everything and plays the story of one customer over the public HTTP API."""

from contextlib import closing

from ops.console import console
from tools.children import CannotRun
from tools.story import Story, StoryFailed
from tools.up import running_system, wait_for_ctrl_c


def demo(*, leave: bool, docker: bool, native: bool) -> None:
    """Play the story, then run until Ctrl-C unless `leave`. Raises CannotRun if a step fails."""
    with running_system(docker=docker, native=native) as system:
        try:
            with closing(Story(system.addresses)) as story:
                story.play()
        except StoryFailed as failure:
            raise CannotRun(f"{failure}\n{system.log(failure.part)}") from None
        console.print("\n  [bold green]Every step of the story succeeded.[/]\n")
        system.addresses.show()
        if not leave:
            wait_for_ctrl_c(system)
