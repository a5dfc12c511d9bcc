"""Settings, from environment variables with the prefix CHORUS_. `docs/settings.md` lists them.

A password or a URL may stand in a file, which the variable NAME_FILE names, as Docker and Kubernetes provide secrets.
"""

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.database import addresses

AMQP: Final = ("amqp", "amqps")
HTTP: Final = ("http", "https")

S = TypeVar("S", bound=BaseSettings)


class Settings(BaseSettings):
    """The settings of an installation."""

    model_config = SettingsConfigDict(env_prefix="CHORUS_", extra="ignore")

    database_admin_url: SecretStr | None = Field(
        None,
        description="A superuser's URL, with which `chorus migrate` creates databases and roles.",
    )
    rabbitmq_api_url: SecretStr | None = Field(
        None,
        description=(
            "RabbitMQ's management API. For `chorus migrate`, with an administrator's login; services need none, and"
            " watch the topology there with their own logins."
        ),
    )
    auditor_password: SecretStr | None = Field(
        None,
        description="The password of the logins of `chorus audit`, `trace`, `status`; `chorus migrate` creates them.",
    )
    allow_unsafe_database: bool = Field(
        False,
        description="Start although PostgreSQL runs with `fsync=off` or `full_page_writes=off`; each start logs it.",
    )
    allow_demo_passwords: bool = Field(
        False,
        description="Start with passwords of `compose.yaml`, which everybody knows: for a trial.",
    )
    amqp_url: SecretStr | None = Field(
        None, description="The broker of every service without a URL of its own."
    )
    event_log_days: int = Field(
        7,
        ge=7,
        le=30,  # less than an inbox keeps: what is published again is recognised
        description="For how many days, 7 to 30, a service keeps the events that it has published.",
    )
    connections_per_address: int = Field(
        1000,
        ge=1,
        description="The most open HTTP connections of one address to a process; trusted proxies have no limit.",
    )
    trusted_proxies: str = Field(
        "",
        description=(
            "Addresses and networks of proxies, separated by commas. From them `X-Forwarded-For` names the"
            " client; from others it is ignored."
        ),
    )
    http_url_bytes: int = Field(8192, ge=64, description="The longest URL; above it 414.")
    http_header_bytes: int = Field(
        32768, ge=1024, description="The most bytes of a request's headers; above it 431."
    )
    http_headers: int = Field(100, ge=10, description="The most headers; above it 431.")
    http_head_seconds: float = Field(
        10.0, gt=0, description="The most time for a request's headers to arrive; after it 408."
    )
    http_body_seconds: float = Field(
        30.0, gt=0, description="The same for the whole request, its body included."
    )
    tls_certificate: str | None = Field(
        None,
        description="A file with the certificate chain of the services' HTTP servers, which then speak TLS only.",
    )
    tls_key: str | None = Field(None, description="The file with its private key.")
    failures_per_client_and_account: int = Field(
        30,
        ge=1,
        description="Failed logins an hour of one client address on one account, before 429.",
    )
    failures_per_client: int = Field(
        200,
        ge=1,
        description=(
            "Failed logins, and registrations or changes with an e-mail address that is taken, an hour of one client."
        ),
    )
    failures_per_account: int = Field(
        300,
        ge=1,
        description="Failed logins an hour on one account, of all clients that have not signed in to it lately.",
    )
    registrations_per_client: int = Field(
        5000, ge=1, description="Registrations an hour of one client address."
    )
    cors_origins: str = Field(
        "",
        description="Origins of web pages that may call the services from a browser, separated by commas.",
    )
    operator_email: str | None = Field(
        None, description="The first operator, whom the users service creates at start."
    )
    operator_password: SecretStr | None = Field(None, description="The first operator's password.")
    viewer_email: str | None = Field(
        None, description="The first viewer, who may see what an operator may, and change nothing."
    )
    viewer_password: SecretStr | None = Field(None, description="The first viewer's password.")
    log_format: Literal["console", "json"] = Field(
        "console", description="The format of logs: `console` or `json`."
    )
    log_level: str = Field("INFO", description="The lowest level that is logged.")

    @field_validator("log_level")
    @classmethod
    def _is_a_level(cls, name: str) -> str:
        if name.upper() not in logging.getLevelNamesMapping():
            raise PydanticCustomError("level", "use DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return name

    @field_validator("rabbitmq_api_url")
    @classmethod
    def _is_a_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url and url.get_secret_value() and (fault := _fault(url.get_secret_value(), HTTP)):
            raise PydanticCustomError("url", "{fault}", {"fault": fault})
        return url

    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of trusted proxies. Raises LookupError if one is not valid."""
        try:
            named = filter(None, map(str.strip, self.trusted_proxies.split(",")))
            return tuple(ip_network(one) for one in named)
        except ValueError as error:
            raise LookupError(f"CHORUS_TRUSTED_PROXIES: {error}") from None

    def database_url(self, service: str) -> str:
        """The PostgreSQL URL of a service, CHORUS_DATABASE_URL_<SERVICE>. Raises LookupError if it is none."""
        return _database_url(f"CHORUS_DATABASE_URL_{service.upper()}")

    @staticmethod
    def administrator_url() -> str:
        """A superuser's PostgreSQL URL, CHORUS_DATABASE_ADMIN_URL. Raises LookupError if it is none."""
        return _database_url("CHORUS_DATABASE_ADMIN_URL")

    def broker_url(self, service: str) -> str:
        """The AMQP URL of a service: CHORUS_AMQP_URL_<SERVICE>, else CHORUS_AMQP_URL. Raises LookupError.

        The URL of a cluster names every node, separated by commas.
        """
        name = f"CHORUS_AMQP_URL_{service.upper()}"
        if self.amqp_url and not value(name):
            name, address = "CHORUS_AMQP_URL", self.amqp_url.get_secret_value()
        else:
            address = required(name)
        for url in filter(None, map(str.strip, address.split(","))):
            if fault := _fault(url, AMQP):
                raise LookupError(f"{name}: {fault}")
        return address


def _fault(url: str, schemes: Sequence[str]) -> str:
    """Why a URL cannot be used, without its password; empty if it can."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in schemes and "://" in url and parts.port != 0
    except ValueError:  # of a port that is no number, as after a "/" in a password
        valid = False
    return "" if valid else f"write {schemes[0]}://user:password@host:port; {addresses.SPECIAL}"


def _database_url(name: str) -> str:
    return addresses.checked(name, required(name))


def required(name: str) -> str:
    """The value of an environment variable or of its file. Raises LookupError if it is not set."""
    found = value(name)
    if not found:
        raise LookupError(f"{name} is not set; docs/settings.md lists the settings")
    return found


def value(name: str) -> str | None:
    """The value of an environment variable or of its file, None if neither is set.

    Raises LookupError for a file that cannot be used.
    """
    return _from_file(name) or os.environ.get(name)


def _from_file(name: str) -> str | None:
    """The text of the file that NAME_FILE names, without a line break at its end; None if that is not set.

    Raises LookupError if the file cannot be read or is empty, or if NAME is set as well.
    """
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return None
    if os.environ.get(name):
        raise LookupError(f"{name} and {name}_FILE are both set: set one of them")
    try:
        text = Path(path).read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise LookupError(f"{name}_FILE: {path}: {error.strerror}") from None
    except ValueError:
        raise LookupError(f"{name}_FILE: {path}: this is no text in UTF-8") from None
    if not text:
        raise LookupError(f"{name}_FILE: {path}: the file is empty")
    return text


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once. Raises LookupError as `read` does."""
    return read(Settings)


def read(kind: type[S]) -> S:
    """Settings of one kind. Raises LookupError with the variables that are not valid, without their values."""
    in_files: dict[str, Any] = {
        name: text
        for name, field in kind.model_fields.items()
        if SecretStr in get_args(field.annotation)
        and (text := _from_file(f"CHORUS_{name.upper()}"))
    }
    try:
        return kind(**in_files)
    except ValidationError as error:
        found = [f"CHORUS_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
        raise LookupError("; ".join(found)) from None
