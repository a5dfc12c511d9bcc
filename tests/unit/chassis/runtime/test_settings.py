"""Secrets in files: CHORUS_..._FILE."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from apps.notifications.channels.mail_server import MailSettings
from chassis.runtime.settings import Settings, read, required

URL = "postgresql://orders:secret@127.0.0.1:1/orders"
AMQP = "amqp://orders:secret@127.0.0.1:1/chorus"
API = "http://admin:secret@127.0.0.1:1"


def secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


READERS: dict[str, tuple[str, Callable[[], str | None]]] = {
    "CHORUS_DATABASE_URL_ORDERS": (URL, lambda: read(Settings).database_url("orders")),
    "CHORUS_DATABASE_ADMIN_URL": (URL, lambda: read(Settings).administrator_url()),
    "CHORUS_AMQP_URL_ORDERS": (AMQP, lambda: read(Settings).broker_url("orders")),
    "CHORUS_AMQP_URL": (AMQP, lambda: read(Settings).broker_url("orders")),
    "CHORUS_RABBITMQ_API_URL": (API, lambda: required("CHORUS_RABBITMQ_API_URL")),
    "CHORUS_AUDITOR_PASSWORD": ("secret", lambda: secret(read(Settings).auditor_password)),
    "CHORUS_OPERATOR_PASSWORD": ("secret", lambda: secret(read(Settings).operator_password)),
    "CHORUS_VIEWER_PASSWORD": ("secret", lambda: secret(read(Settings).viewer_password)),
    "CHORUS_SMTP_PASSWORD": ("secret", lambda: secret(read(MailSettings).smtp_password)),
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in READERS:
        monkeypatch.delenv(name, raising=False)


def test_every_secret_is_tried() -> None:
    named = {
        f"CHORUS_{name.upper()}"
        for kind in (Settings, MailSettings)
        for name, field in kind.model_fields.items()
        if "Secret" in str(field.annotation)
    }
    assert named <= READERS.keys()


@pytest.mark.parametrize("name", READERS)
class TestFile:
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_it_is_read(
        self, name: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text, value = READERS[name]
        (tmp_path / "secret").write_bytes(f"{text}{end}".encode())
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        assert value() == text

    @pytest.mark.parametrize(
        ("content", "fault"),
        [(None, "No such file or directory"), (b"\n", "the file is empty"), (b"\xff", "no text in UTF-8")],
    )  # fmt: skip
    def test_one_that_cannot_be_used_is_named(
        self, name: str, content: bytes | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:  # fmt: skip
        if content is not None:
            (tmp_path / "secret").write_bytes(content)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        with pytest.raises(LookupError, match=f"^{name}_FILE: {tmp_path}/secret: .*{fault}"):
            READERS[name][1]()

    def test_it_and_the_variable_are_not_both_set(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text, value = READERS[name]
        (tmp_path / "secret").write_text("of the file")
        monkeypatch.setenv(name, text)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
        with pytest.raises(LookupError, match="both set") as raised:
            value()
        assert "secret@" not in str(raised.value)
