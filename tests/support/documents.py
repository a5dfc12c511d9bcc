"""The documents that are committed for each service."""

import importlib.resources
import json
from typing import Any


def committed(service: str, name: str) -> dict[str, Any]:
    """A JSON document of a service: `openapi.json` or `asyncapi.json`."""
    path = importlib.resources.files(f"apps.{service}") / "documents" / name
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document
