"""The context of a request: its headers and its causation, read once by Telemetry and kept in the ASGI scope."""

import random
import re
import secrets
from collections.abc import Mapping
from typing import Final

from fastapi import Request
from starlette.types import Scope
from uuid_utils import uuid7

from events.base import Causation

CORRELATION_HEADER: Final = "X-Correlation-Id"

_HEADERS: Final = "chorus.headers"
_CAUSATION: Final = "chorus.causation"
_HEAD: Final = "chorus.head"
_CORRELATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", re.ASCII)
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def with_context(scope: Scope) -> tuple[Scope, Causation]:
    """The scope of an HTTP request with its context. HEAD becomes GET; the server leaves out the body."""
    if scope["method"] == "HEAD":
        scope = {**scope, "method": "GET", _HEAD: True}
    headers = dict(reversed(scope["headers"]))  # of several with one name the first counts
    causation = _read_causation(headers)
    scope[_HEADERS], scope[_CAUSATION] = headers, causation
    return scope, causation


def headers_of(request: Request) -> Mapping[bytes, bytes]:
    """The headers of a request, by their names in lower case."""
    headers: Mapping[bytes, bytes] = request.scope[_HEADERS]
    return headers


def causation_of(request: Request) -> Causation:
    """The causation of the events that a request leads to."""
    causation: Causation = request.scope[_CAUSATION]
    return causation


def is_head(request: Request) -> bool:
    """Whether the client has sent HEAD."""
    return _HEAD in request.scope


def _read_causation(headers: Mapping[bytes, bytes]) -> Causation:
    """The client's correlation id and trace context where they are well formed, else new ones."""
    correlation_id = headers.get(b"x-correlation-id", b"").decode("latin-1")
    if not _CORRELATION.fullmatch(correlation_id):
        correlation_id = str(uuid7())
    traceparent = headers.get(b"traceparent", b"").decode("latin-1")
    if not _TRACEPARENT.fullmatch(traceparent):
        traceparent = f"00-{_unique(128):032x}-{_unique(64):016x}-01"
    return Causation(correlation_id, None, traceparent)


_unique = random.Random(secrets.randbits(128)).getrandbits  # noqa: S311
"""Trace ids need to be unique, not secret; the system's secure source costs a system call each."""
