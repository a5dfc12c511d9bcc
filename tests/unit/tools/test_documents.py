"""The documents are made once per release, committed, and served as files."""

import importlib
from pathlib import Path

import pytest

from apps import SERVICES
from tests.support.documents import committed
from tests.unit.tools.test_asyncapi import application, fetched, served
from tools.documents import __main__ as generator


@pytest.mark.parametrize("service", SERVICES)
def test_the_committed_documents_are_current(service: str) -> None:
    for path, text in generator.generated(service).items():
        assert path.read_text("utf-8") == text, "run `make documents`"


def test_the_same_documents_are_made_every_time() -> None:
    assert generator.generated("orders") == generator.generated("orders")


@pytest.mark.parametrize("name", ["openapi.json", "asyncapi.json", "asyncapi.html"])
def test_check_finds_a_file_that_is_missing_or_not_current(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(generator, "APPS", tmp_path)
    monkeypatch.setattr(generator, "SERVICES", ("users",))
    assert generator.main(["check"]) == 1
    assert generator.main(["write"]) == 0
    assert generator.main(["check"]) == 0
    path = tmp_path / "users" / "documents" / name
    path.write_text(path.read_text("utf-8").replace("Chorus users", "Chorus"), "utf-8")
    capsys.readouterr()
    assert generator.main(["check"]) == 1
    assert capsys.readouterr().err == f"{path} is not current; run `make documents`\n"


def test_another_argument_is_refused() -> None:
    with pytest.raises(SystemExit, match="usage"):
        generator.main(["wrote"])


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_serves_the_committed_file_and_makes_no_document(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = importlib.import_module(f"apps.{service}.main").app
    monkeypatch.setattr(app, "openapi", None)
    response = await fetched(service, "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == committed(service, "openapi.json")


async def test_a_service_without_documents_answers_404() -> None:
    async with served(application("things", None)) as http:
        for path in ("/openapi.json", "/asyncapi.json", "/asyncapi"):
            assert (await http.get(path)).status_code == 404
        assert "<title>Chorus things: API</title>" in (await http.get("/docs")).text
