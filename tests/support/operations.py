"""The operations of the services' OpenAPI documents, and endpoints to call them with any input."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from apps import SERVICES
from tests.support.documents import committed
from tests.support.harness import RunningService

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Operation:
    """One operation of a service's OpenAPI document."""

    service: str
    method: str
    path: str
    definition: dict[str, Any] = field(repr=False)
    schemas: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def body(self) -> dict[str, Any] | None:
        """The example of the request body; None without one."""
        content = self.definition.get("requestBody", {}).get("content", {})
        example: dict[str, Any] | None = content.get("application/json", {}).get("example")
        return example

    def parameters(self, place: str) -> list[str]:
        return [p["name"] for p in self.definition["parameters"] if p.get("in") == place]


def operations() -> list[Operation]:
    found = []
    for service in SERVICES:
        document = committed(service, "openapi.json")
        schemas = document["components"]["schemas"]
        for path, methods in document["paths"].items():
            for method, definition in methods.items():
                found.append(Operation(service, method, path, definition, schemas))
    return found


ALL_OPERATIONS = operations()


OPERATIONS = [one for one in ALL_OPERATIONS if one.definition["tags"] != ["operations"]]


WITH_BODY = [operation for operation in OPERATIONS if operation.body]


WITH_IDS = [operation for operation in OPERATIONS if operation.parameters("path")]


WITH_KEY = [op for op in OPERATIONS if "Idempotency-Key" in op.parameters("header")]


SECURED = [operation for operation in OPERATIONS if "security" in operation.definition]


LISTS = [operation for operation in OPERATIONS if "cursor" in operation.parameters("query")]


class Endpoint:
    """One operation of a running service, with a user who is allowed to call it."""

    def __init__(self, operation: Operation, service: RunningService) -> None:
        self.operation = operation
        self.service = service
        self.user: UUID = uuid7()

    def token(self, **claims: Any) -> str:
        operators_only = self.operation.path == "/notification/send"
        role = "operator" if operators_only else "user"
        return self.service.signer.token(self.user, **({"role": role} | claims))

    async def asked(
        self,
        body: Any = None,
        *,
        content: bytes | None = None,
        query: str = "",
        headers: dict[str, str] | None = None,
        token: str | None = None,
        id: str | None = None,
    ) -> httpx.Response:
        path = self.operation.path
        for name in self.operation.parameters("path"):
            path = path.replace(f"{{{name}}}", id or str(self.user))
        if body is not None:
            content = json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {token or self.token()}"}
        sent |= JSON if content is not None else {}
        async with self.service.http() as http:
            return await http.request(
                self.operation.method.upper(),
                f"{path}?{query}" if query else path,
                content=content,
                headers=sent | (headers or {}),
            )

    async def written(self) -> dict[str, str]:
        """A hash of each table in the service's database."""
        tables = await self.service.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        prints = {}
        for (name,) in tables:
            rows = (
                f"SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {name} t"
            )
            prints[name] = await self.service.value(rows)
        return prints


def at(operations: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("endpoint", operations, ids=str, indirect=True)


def is_problem(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    summary = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    assert answer.status_code in statuses, summary
    assert answer.headers["content-type"] == "application/problem+json", summary
    assert answer.headers["x-correlation-id"], summary
    document: dict[str, Any] = answer.json()
    assert set(document) >= {"type", "title", "status", "detail", "instance", "reason"}, summary
    assert document["status"] == answer.status_code
    return document
