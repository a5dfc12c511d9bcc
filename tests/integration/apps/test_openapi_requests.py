"""Valid and invalid requests that schemathesis generates from each service's OpenAPI document.

Every response conforms to the document: status, content type, headers and body. Valid requests are accepted; invalid
requests, undeclared methods and requests without a token are refused.
"""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from apps import SERVICES
from tests.support.fixtures import Install
from tests.support.processes import Processes

REQUESTS_PER_OPERATION = os.environ.get("CHORUS_TESTS_REQUESTS", "15")
"""Random requests for each operation, besides those that cover each bound of the schema."""

OPERATOR = {"email": "operator@chorus.test", "password": "correct horse battery"}


@dataclass(frozen=True)
class Stack:
    """Running services by name, and tokens for them."""

    urls: dict[str, str]
    user: str
    operator: str


@pytest.fixture(scope="module")
async def stack(install_chorus: Install, module_processes: Processes) -> Stack:
    settings = {
        "CHORUS_OPERATOR_EMAIL": OPERATOR["email"],
        "CHORUS_OPERATOR_PASSWORD": OPERATOR["password"],
        "CHORUS_SMTP_PORT": "9",  # no SMTP server: notifications wait
    }
    installation = await install_chorus("requests")
    running = await module_processes.start(installation, *SERVICES, settings=settings)
    urls = {process.service: process.url for process in running}
    async with httpx.AsyncClient(base_url=urls["users"], trust_env=False) as http:
        ann = {"email": f"ann-{uuid7()}@example.com", "password": "correct horse battery"}
        registered = await http.post("/user/register", json=ann | {"name": "Ann"})
        assert UUID(registered.json()["userId"])
        tokens = [(await http.post("/user/login", json=login)).json() for login in (ann, OPERATOR)]
    return Stack(urls, *(token["accessToken"] for token in tokens))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", SERVICES)
async def test_responses_are_as_documented(stack: Stack, service: str, tmp_path: Path) -> None:
    token = stack.operator if service == "notifications" else stack.user
    schemathesis = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("st"),
        "run",
        f"{stack.urls[service]}/openapi.json",
        f"--header=Authorization: Bearer {token}",
        "--checks=all",
        "--phases=examples,coverage,fuzzing",
        f"--max-examples={REQUESTS_PER_OPERATION}",
        "--seed=1",
        "--no-shrink",
        "--continue-on-failure",
        "--suppress-health-check=all",
        "--workers=1",
        cwd=tmp_path,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.support.fuzzing",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "NO_COLOR": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await schemathesis.communicate()
    assert schemathesis.returncode == 0, output.decode(errors="replace")
