"""`chorus trace` and `chorus status` on a running system."""

import asyncio
import json
from typing import Any

from typer.testing import CliRunner, Result

from ops.main import cli
from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.installation import environment

Document = dict[str, Any]


async def run(chorus: Stack, *arguments: str, command: str = "trace") -> Result:
    with environment(chorus.installation.environment):
        return await asyncio.to_thread(CliRunner().invoke, cli, [command, *arguments])


async def traced(chorus: Stack, id: object, *arguments: str) -> Document:
    """The document about an id. The exit status says whether something is missing."""
    result = await run(chorus, str(id), "--json", *arguments)
    assert result.exit_code in {0, 1}, result.output
    document: Document = json.loads(result.stdout)
    assert document["complete"] == (result.exit_code == 0)
    return document


async def completed(chorus: Stack, id: object, *arguments: str) -> Document:
    async def complete() -> Document:
        document = await traced(chorus, id, *arguments)
        assert document["complete"], document["missing"]
        return document

    return await eventually(complete)


async def missing(chorus: Stack, id: object, place: str) -> Document:
    """The one thing that is missing, once it is found in a place."""

    async def found() -> Document:
        document = await traced(chorus, id)
        [one] = document["missing"]
        assert one["place"] == place, one
        hop: Document = one
        return hop

    return await eventually(found, within=40)


async def status_names(chorus: Stack, *lines: str) -> Document:
    """The document of `chorus status`, once its lines on what is wrong have these beginnings."""

    async def named() -> Document:
        result = await run(chorus, "--json", "--grace", "0", command="status")
        assert result.exit_code == 1, result.output
        document: Document = json.loads(result.stdout)
        for line in lines:
            assert any(one.startswith(line) for one in document["wrong"]), document
        return document

    return await eventually(named, within=40)
