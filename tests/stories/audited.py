"""An installation whose databases are copied and made inconsistent."""

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.answers import History
from ops.audit import Urls


@dataclass(frozen=True)
class Scene:
    """An installation at rest, whose services have ended, and what its customers were answered."""

    admin_url: str
    urls: Urls
    history: History

    @asynccontextmanager
    async def spoiled(self, spoiling: Mapping[str, str]) -> AsyncIterator[Urls]:
        """Where copies of the databases of some services are, in each of which a script has been run."""
        databases = dict(self.urls.databases)
        connection = await asyncpg.connect(self.admin_url)
        made = []
        try:
            for service, script in spoiling.items():
                url = urlsplit(databases[service])
                made.append(name := f"spoiled_{next(_numbers)}")
                await connection.execute(f'CREATE DATABASE {name} TEMPLATE "{url.path[1:]}"')
                databases[service] = urlunsplit(url._replace(path=f"/{name}"))
                await run(urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}")), script)
            yield replace(self.urls, databases=databases)
        finally:
            for name in made:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await connection.close()


_numbers = itertools.count(1)


async def run(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()
