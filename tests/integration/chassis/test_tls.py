"""TLS to PostgreSQL, RabbitMQ and its management API, and of a service's own HTTP server, with a private CA."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import stamina

from chassis.database.pool import Database
from chassis.messaging.addresses import BrokerAddresses, connect, with_login
from chassis.messaging.broker import RabbitConsumer
from ops.management import Administration
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.installation import install
from tests.support.processes import ServiceProcess
from tests.support.servers import Servers
from tools.servers import PrivatePostgres, PrivateRabbitMQ, running
from tools.servers.folders import run_folder
from tools.servers.ports import private_port

RABBITMQ = """
listeners.ssl.1 = 127.0.0.1:{amqps}
management.ssl.ip = 127.0.0.1
management.ssl.port = {https}
"""


class TlsRabbitMQ(PrivateRabbitMQ):
    """It has two more listeners."""

    def _write_configuration(self) -> None:
        super()._write_configuration()
        self.amqps, self.https = private_port(), private_port()
        configuration = (self._folder / "rabbitmq.conf").read_text()
        configuration += RABBITMQ.format(amqps=self.amqps, https=self.https)
        for prefix in ("ssl_options", "management.ssl"):
            for kind, name in (
                ("certfile", "tls.pem"),
                ("keyfile", "tls.key"),
                ("cacertfile", "ca.pem"),
            ):
                configuration += f"{prefix}.{kind} = {self._folder / name}\n"
        self._write("rabbitmq.conf", configuration)


@dataclass
class Tls:
    """The servers. Their certificate is of `ca`, for localhost only, and can be replaced."""

    postgres: PrivatePostgres
    rabbitmq: TlsRabbitMQ
    ca: Authority
    other: Authority

    def certify(self, *, expired: bool = False) -> None:
        certificate, key = self.ca.certificate(expired=expired)
        for server in (self.postgres, self.rabbitmq):
            server._write("tls.pem", certificate)
            server._write("tls.key", key)
            server._write("ca.pem", self.ca.file.read_text())

    async def reload(self) -> None:
        connection = await asyncpg.connect(self.postgres.url)
        folder = self.postgres._folder
        for name, value in {
            "ssl_cert_file": folder / "tls.pem",
            "ssl_key_file": folder / "tls.key",
            "ssl": "on",
        }.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        await asyncio.to_thread(self.rabbitmq.control, "eval", "ssl:clear_pem_cache().")

        async def encrypts() -> None:
            await (await asyncpg.connect(self.postgres.url, ssl="require")).close()

        await eventually(encrypts)

    def urls(self, ca: Authority, host: str = "localhost") -> dict[str, str]:
        """The servers' URLs, with a CA."""
        login = f"{self.rabbitmq.user}:{self.rabbitmq.password}"
        postgres = self.postgres.url.replace("127.0.0.1", host)
        return {
            "postgresql": f"{postgres}?sslmode=verify-full&sslrootcert={ca.file}",
            "amqps": f"amqps://{login}@{host}:{self.rabbitmq.amqps}/%2F?cafile={ca.file}",
            "https": f"https://{login}@{host}:{self.rabbitmq.https}?cafile={ca.file}",
        }

    def plaintext(self) -> dict[str, str]:
        """URLs that want TLS of a port without it."""
        login = f"{self.rabbitmq.user}:{self.rabbitmq.password}@localhost"
        cafile = f"?cafile={self.ca.file}"
        return {
            "amqps": f"amqps://{login}:{self.rabbitmq.port}/%2F{cafile}",
            "https": f"https://{login}:{self.rabbitmq.management_port}{cafile}",
        }


@pytest.fixture(scope="module")
async def tls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tls]:
    folder = tmp_path_factory.mktemp("tls")
    with run_folder() as run:
        made = Tls(
            PrivatePostgres(run),
            TlsRabbitMQ(run),
            Authority(folder, "ca"),
            Authority(folder, "other"),
        )
        made.certify()
        with running(made.rabbitmq, made.postgres):
            await made.reload()
            yield made


@pytest.fixture(autouse=True)
def once() -> Iterator[None]:
    """A server that is away is not waited for."""
    with stamina.set_testing(True, attempts=1):
        yield


async def use(kind: str, url: str) -> None:
    """Connect as the services and `chorus migrate` do."""
    if kind == "postgresql":
        database = Database(url, "orders", size=1)
        await database.open()
        async with database.reading() as session:
            assert await (await session.connection()).exec_driver_sql("SELECT 1")
        await database.close()
    elif kind == "amqps":
        await (await connect(url)).close()
        broker = RabbitConsumer(BrokerAddresses(url, "tls"), logger=None)
        await broker.start()
        await broker.stop()
    else:
        with Administration(url) as api:
            api.get("overview").raise_for_status()


KINDS = ("postgresql", "amqps", "https")
REFUSED = (OSError, httpx.ConnectError)


@pytest.mark.parametrize("kind", KINDS)
class TestServers:
    async def test_one_with_a_certificate_of_the_ca_is_used(self, tls: Tls, kind: str) -> None:
        await use(kind, tls.urls(tls.ca)[kind])

    async def test_one_of_another_ca_is_refused(self, tls: Tls, kind: str) -> None:
        with pytest.raises(REFUSED, match=r"self-signed|unable to get local issuer"):
            await use(kind, tls.urls(tls.other)[kind])

    async def test_one_of_another_name_is_refused(self, tls: Tls, kind: str) -> None:
        with pytest.raises(REFUSED, match="IP address mismatch"):
            await use(kind, tls.urls(tls.ca, "127.0.0.1")[kind])


async def test_plaintext_is_refused(tls: Tls) -> None:
    for kind, url in tls.plaintext().items():
        with pytest.raises(REFUSED, match=r"(?i)ssl"):
            await use(kind, url)
    owner = await asyncpg.connect(tls.postgres.url)
    await owner.execute("ALTER SYSTEM SET ssl = off")
    await owner.execute("SELECT pg_reload_conf()")
    await owner.close()

    async def refused() -> None:
        with pytest.raises(OSError, match="rejected SSL upgrade"):
            await use("postgresql", tls.urls(tls.ca)["postgresql"])

    try:
        await eventually(refused)
    finally:
        await tls.reload()


async def test_a_service_works_with_tls_everywhere(tls: Tls, tmp_path: Path) -> None:
    urls = tls.urls(tls.ca)
    servers = TlsServers(
        "native", urls["postgresql"], urls["https"], "localhost", tls.rabbitmq.amqps
    )
    servers.query.append(f"?cafile={tls.ca.file}")
    chorus = await install(servers, "tls", ("orders",))
    query = urls["postgresql"].partition("?")[2]
    certificate, key = tls.ca.certificate()
    (tmp_path / "chain.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    own = {
        "CHORUS_DATABASE_URL_ORDERS": f"{chorus.database_url('orders')}?{query}",
        "CHORUS_TLS_CERTIFICATE": str(tmp_path / "chain.pem"),
        "CHORUS_TLS_KEY": str(tmp_path / "key.pem"),
    }
    process = ServiceProcess("orders", chorus, tmp_path, settings=own)
    process.launch()
    address = f"localhost:{process.port}"
    trusting = ssl.create_default_context(cafile=str(tls.ca.file))
    async with (
        httpx.AsyncClient(verify=trusting, trust_env=False, timeout=20) as client,
        httpx.AsyncClient(trust_env=False) as stranger,
    ):

        async def is_ready() -> None:
            process.child.check()
            try:
                answer = await client.get(f"https://{address}/ready")
            except httpx.TransportError as error:
                raise AssertionError(repr(error)) from None
            assert (answer.status_code, answer.json().get("detail", "")) == (200, "")

        try:
            await eventually(is_ready, within=60)
            with pytest.raises(httpx.ConnectError, match="unable to get local issuer"):
                await stranger.get(f"https://{address}/live")
            with pytest.raises(httpx.TransportError):
                await stranger.get(f"http://{address}/live")
        finally:
            assert await process.stop() == 0, process.log


class TlsServers(Servers):
    """Servers whose AMQP URLs have TLS."""

    query: list[str] = []  # noqa: RUF012 - of a frozen dataclass

    def amqp_url(self, user: str, password: str, vhost: str = "%2F") -> str:
        url = with_login(super().amqp_url("", "", vhost), user, password)
        return url.replace("amqp://", "amqps://") + self.query[0]


async def test_an_expired_certificate_is_refused(tls: Tls) -> None:
    tls.certify(expired=True)
    with contextlib.suppress(TimeoutError):
        await tls.reload()
    for kind, url in tls.urls(tls.ca).items():
        with pytest.raises(REFUSED, match="certificate has expired"):
            await use(kind, url)
