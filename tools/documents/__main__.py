"""Each service's `documents/`: `python -m tools.documents write` makes the files, `check` compares them."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from apps import SERVICES
from tools.documents.asyncapi import asyncapi, page
from tools.documents.openapi import completed

APPS = Path(__file__).parents[2] / "apps"


def generated(service: str) -> dict[Path, str]:
    """A service's documents by path, as its declarations make them now."""
    app = importlib.import_module(f"apps.{service}.main").app
    subscriptions = importlib.import_module(f"apps.{service}.consumers").SUBSCRIPTIONS
    events = asyncapi(service, app.description, {one.event: one.handler for one in subscriptions})
    folder = APPS / service / "documents"
    return {
        folder / "openapi.json": _json(completed(app.openapi())),
        folder / "asyncapi.json": _json(events),
        folder / "asyncapi.html": page(events),
    }


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Run `check` or `write`; returns the exit status."""
    if arguments not in (["check"], ["write"]):
        sys.exit("usage: python -m tools.documents check|write")
    stale = False
    for path, text in (file for service in SERVICES for file in generated(service).items()):
        if arguments == ["write"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            print(f"{path} is not current; run `make documents`", file=sys.stderr)
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
