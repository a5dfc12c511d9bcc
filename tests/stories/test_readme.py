"""A reader who knows nothing follows the README, and gets a paid order and its e-mail with curl alone."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from bench.answers import Attempt
from events.money import to_minor
from tests.stories.stack import Stack
from tests.support.programs import program

README: Final = (Path(__file__).parents[2] / "README.md").read_text()
PORTS: Final = {"users": 8001, "billing": 8002, "orders": 8003, "notifications": 8004}
SAME: Final = frozenset(
    [
        "amount",
        "balance",
        "status",
        "totalPrice",
        "currency",
        "kind",
        "to",
        "subject",
        "title",
        "reason",
    ]
)
"""What is the same each time that somebody follows the README; ids and times are not."""

_STEPS: Final = re.compile(
    r"```sh\n(?P<command>.*?)```(?:\s+```(?:json)?\n(?P<answer>.*?)```)?", re.DOTALL
)


def steps() -> list[tuple[str, str]]:
    """The commands of the section about curl, each with the answer that the README shows."""
    section = README.split("\n## A paid order")[1].split("\n## ")[0]
    return [(step["command"], step["answer"] or "") for step in _STEPS.finditer(section)]


def alike(shown: Any, seen: Any, name: str = "") -> bool:
    """Whether an answer has the fields that are shown, and the values that are the same each time."""
    if isinstance(shown, dict):
        return shown.keys() == seen.keys() and all(alike(shown[n], seen[n], n) for n in shown)
    if isinstance(shown, list):
        return len(shown) == len(seen) and all(map(alike, shown, seen))
    return name not in SAME or bool(shown == seen)


def script(chorus: Stack) -> str:
    """The commands as one script against this stack; each answer ends with NUL, orders have flows of their own."""
    text = "set -euo pipefail\n"
    for number, (command, _) in enumerate(steps()):
        if "docker compose" not in command:
            flow = f"curl -s -H 'X-Correlation-Id: readme-{number}' "
            text += command.replace("curl -s ", flow).replace("sleep 1", "sleep 3")
            text += "printf '\\0'\n"
    for service, port in PORTS.items():
        text = text.replace(f"localhost:{port}", f"127.0.0.1:{chorus[service].port}")
    return text


def tell(chorus: Stack, user_id: UUID) -> None:
    """Tell the audit which orders were asked for."""
    for number, (command, _) in enumerate(steps()):
        if found := re.search(r'"totalPrice": "([0-9.]+)"', command):
            flow = f"readme-{number}"
            chorus.attempts.append(Attempt(user_id, to_minor(found[1]), flow, flow))


async def test_the_commands_of_the_readme_give_a_paid_order_and_its_e_mail(chorus: Stack) -> None:
    program("curl", "curl")
    bash = await asyncio.create_subprocess_exec(
        "bash", "-c", script(chorus), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, error = await bash.communicate()

    assert bash.returncode == 0, error.decode()
    seen = output.decode().split("\0")[:-1]
    tell(chorus, UUID(seen[0].strip()))
    shown = [answer for command, answer in steps() if "docker compose" not in command]
    assert len(seen) == len(shown) == 5
    for text, answer in zip(seen[1:], shown[1:], strict=True):
        assert alike(json.loads(answer), json.loads(text)), text
    await chorus.is_quiet()
    subjects = [email.subject for email in chorus.mail.to("ada@example.com")]
    assert subjects == [
        "Your order is paid: 30.00 EUR",
        "Your order could not be paid: 1000.00 EUR",
    ]
