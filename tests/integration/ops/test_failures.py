"""Every command of `chorus` with settings that are missing or wrong, and servers that do not answer or refuse it."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer
from pydantic import TypeAdapter, ValidationError
from typer.core import TyperGroup
from typer.testing import CliRunner, Result
from uuid_utils.compat import uuid7

from apps import SERVICES
from apps.notifications.channels.mail_server import MailSettings
from chassis.runtime.settings import Settings
from ops.main import cli
from tests.support.fixtures import Install
from tests.support.installation import Installation, environment

ROOT: Final = Path(__file__).parents[3]

ARGUMENTS: Final = {
    "audit": ["--timeout=0"],
    "dead drop": ["--all"],
    "dead list": [],
    "dead replay": ["--all"],
    "dead show": ["01a2"],
    "migrate": [],
    "rebuild": ["notifications"],
    "repair": ["--timeout=0"],
    "republish": ["--missing"],
    "serve": ["orders"],
    "status": [],
    "topology": ["--check"],
    "trace": [str(uuid7())],
}
"""What each command is called with."""

ON_THEIR_OWN: Final = {"bench", "demo", "mailbox", "up"}
"""They start their servers themselves."""

WAITS: Final = {"serve"}
"""Waits a minute for servers that do not answer; its own test has servers that refuse it."""

OWN_STATUS: Final = {"audit": 2, "status": 2, "topology": 2, "trace": 2}
"""By command, the documented exit status if a server does not answer; 1 where none is."""

URLS: Final = [
    "CHORUS_DATABASE_ADMIN_URL",
    "CHORUS_RABBITMQ_API_URL",
    *(f"CHORUS_DATABASE_URL_{service.upper()}" for service in SERVICES),
    *(f"CHORUS_AMQP_URL_{service.upper()}" for service in SERVICES),
]


def commands(group: object, *path: str) -> Iterator[str]:
    """The names of all commands, those in groups included."""
    if isinstance(group, TyperGroup):
        for name, command in group.commands.items():
            yield from commands(command, *path, name)
    else:
        yield " ".join(path)


def run(command: str, settings: dict[str, str]) -> Result:
    """Run a command with these settings of Chorus and no others."""
    unset = {name: "" for name in os.environ if name.startswith("CHORUS_")} | dict.fromkeys(
        URLS, ""
    )
    with environment(unset | settings):
        for name in unset.keys() - settings.keys():
            os.environ.pop(name, None)
        # An audit of this process has configured logging, as a process of its own would not have.
        logging.root.handlers = [
            h for h in logging.root.handlers if type(h) is not logging.StreamHandler
        ]
        return CliRunner().invoke(cli, [*command.split(), *ARGUMENTS[command]])


def is_one_line(result: Result, status: int) -> str:
    """The one line of standard error, with this exit status."""
    assert isinstance(result.exception, SystemExit), result.exception
    [line] = result.stderr.splitlines()
    assert result.exit_code == status, line
    return line


def servers_at(installation: Installation, before: str, after: str) -> dict[str, str]:
    """The settings of an installation, with another text in each URL."""
    return {
        name: value.replace(before, after) if name in URLS else value
        for name, value in installation.environment.items()
    }


def test_every_command_is_listed_here() -> None:
    assert {*commands(typer.main.get_command(cli))} == ARGUMENTS.keys() | ON_THEIR_OWN


@pytest.mark.parametrize("command", ARGUMENTS)
async def test_a_setting_that_is_missing_is_named(command: str) -> None:
    line = is_one_line(await asyncio.to_thread(run, command, {}), 2)
    assert line.startswith("chorus: CHORUS_")
    assert line.endswith(" is not set; docs/settings.md lists the settings")


@pytest.mark.parametrize(
    "url", ["nonsense", "http://[", "postgresql://u:p/w@host", "amqp://u:p/w@host"]
)
@pytest.mark.parametrize("command", ARGUMENTS)
async def test_a_url_that_is_not_valid_is_named(command: str, url: str) -> None:
    line = is_one_line(await asyncio.to_thread(run, command, dict.fromkeys(URLS, url)), 2)
    assert line.startswith("chorus: CHORUS_")
    assert "p/w" not in line


@pytest.mark.parametrize("name", URLS)
async def test_each_url_that_is_not_valid_is_named_by_the_command_that_uses_it(
    install_chorus: Install, name: str
) -> None:
    chorus = await install_chorus("failing")
    result = await asyncio.to_thread(run, "migrate", chorus.environment | {name: "nonsense"})
    assert name in is_one_line(result, 2)


@pytest.mark.parametrize("command", sorted(ARGUMENTS.keys() - WAITS))
async def test_a_server_that_does_not_answer_is_reported(
    install_chorus: Install, command: str
) -> None:
    chorus = await install_chorus("failing")
    silent = {
        name: value.replace(value.rpartition("@")[2].partition("/")[0], "127.0.0.1:9")
        for name, value in chorus.environment.items()
    }
    result = await asyncio.to_thread(run, command, silent)
    if command == "status":  # its page is the report
        assert result.exit_code == 2
        assert "127.0.0.1" in result.stdout
    else:
        assert "answer" in is_one_line(result, OWN_STATUS.get(command, 1))


@pytest.mark.parametrize("command", sorted(ARGUMENTS.keys() - WAITS))
async def test_a_login_that_is_refused_is_reported(install_chorus: Install, command: str) -> None:
    chorus = await install_chorus("failing")
    wrong = {
        name: value.replace(f":{password_of(value)}@", ":wrong@")
        for name, value in chorus.environment.items()
    } | {"CHORUS_AUDITOR_PASSWORD": "wrong"}
    result = await asyncio.to_thread(run, command, wrong)
    if command == "status":
        assert result.exit_code == 2
        assert "password" in result.stdout
    else:
        assert "refused the login" in is_one_line(result, OWN_STATUS.get(command, 1))


def password_of(url: str) -> str:
    return url.rpartition("@")[0].rpartition(":")[2]


def not_valid() -> list[tuple[str, str]]:
    """Every setting whose type refuses some text."""
    found = [("CHORUS_LOG_LEVEL", "loud")]
    for kind in (Settings, MailSettings):
        for name, field in kind.model_fields.items():
            try:
                TypeAdapter[Any](field.rebuild_annotation()).validate_python("nonsense")
            except ValidationError:
                found.append((f"CHORUS_{name.upper()}", "nonsense"))
    return found


@pytest.mark.parametrize(("name", "value"), not_valid())
async def test_a_value_that_is_not_valid_is_named(
    install_chorus: Install, name: str, value: str
) -> None:
    chorus = await install_chorus("failing")
    settings = chorus.environment | {name: value}
    with environment(settings):
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["serve", "notifications"])
    assert name in is_one_line(result, 2)


async def test_libraries_add_no_line(install_chorus: Install) -> None:
    chorus = await install_chorus("failing")
    silent = servers_at(chorus, f":{chorus.servers.amqp_port}/", ":9/")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "dead", "list",
        cwd=ROOT, env=dict(os.environ) | silent, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 1
    [line] = errors.decode().splitlines()
    assert line.startswith("chorus: ")
