"""A start with a password of `compose.yaml` is refused, unless it is said to be a trial."""

import os
import re
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from chassis.runtime.settings import Settings, read, settings
from ops.demo_passwords import check
from ops.main import cli

COMPOSE: Final = (Path(__file__).parents[3] / "compose.yaml").read_text("utf-8")

DEFAULT: Final = re.compile(r"\$\{\w+:-([^}]*)\}")

VALUES: Final = {
    name: DEFAULT.sub(r"\1", text)
    for name, text in re.findall(r"^\s+(CHORUS_\w+): (.*\$\{CHORUS_\w*PASSWORD:-.*)$", COMPOSE, re.MULTILINE)
}  # fmt: skip
"""What `compose.yaml` sets by itself, of what has a password."""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CHORUS_"):
            monkeypatch.delenv(name)


def test_all_of_compose_are_tried() -> None:
    passwords = set(re.findall(r"PASSWORD:-([^}]*)\}", COMPOSE))
    assert {p for p in passwords if any(p in value for value in VALUES.values())} == passwords
    assert len(VALUES) >= 12


@pytest.mark.parametrize("name", VALUES)
def test_a_password_that_compose_names_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, VALUES[name])
    with pytest.raises(LookupError, match=rf"^{name}: everybody knows"):
        check(read(Settings))
    monkeypatch.setenv("CHORUS_ALLOW_DEMO_PASSWORDS", "true")
    check(read(Settings))
    monkeypatch.delenv("CHORUS_ALLOW_DEMO_PASSWORDS")
    monkeypatch.delenv(name)
    (tmp_path / "secret").write_text(VALUES[name] + "\n")
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    with pytest.raises(LookupError, match=rf"^{name}: everybody knows"):
        check(read(Settings))


@pytest.mark.parametrize("name", VALUES)
def test_another_password_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, re.sub(r"[a-z]+-demo", "ours-demo", VALUES[name]))
    check(read(Settings))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://orders@db/orders?password=orders-demo",
        "postgresql://orders@db/orders?password=orders-demo&sslmode=require",
        "postgresql://db/orders?user=orders&password=orders-demo",
    ],
)
def test_it_is_found_wherever_it_stands(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_DATABASE_URL_ORDERS", url)
    with pytest.raises(LookupError, match="everybody knows"):
        check(read(Settings))


@pytest.mark.parametrize("command", [["serve", "orders"], ["migrate"]])
def test_commands_that_start_something_refuse_it(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHORUS_DATABASE_URL_ORDERS", VALUES["CHORUS_DATABASE_URL_ORDERS"])
    settings.cache_clear()
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert result.stderr.startswith("chorus: CHORUS_DATABASE_URL_ORDERS: everybody knows")
    assert len(result.stderr.splitlines()) == 1


def test_of_a_cluster_each_node_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = "amqp://orders:ours@one:5672/chorus,amqp://orders:orders-demo@two:5672/chorus"
    monkeypatch.setenv("CHORUS_AMQP_URL", urls)
    with pytest.raises(LookupError, match="everybody knows"):
        check(read(Settings))
