"""PostgreSQL URLs with libpq's parameters: asyncpg reads them, for every program and both pools of a service.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS

A private function of asyncpg returns what it reads, `connect_utils._parse_connect_dsn_and_args`. Written against
asyncpg 0.32.0; `tests/unit/chassis/database/test_addresses.py` fails if a release changes it.
"""

import inspect
import ssl
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg
from asyncpg.connect_utils import _parse_connect_dsn_and_args

READ: Final = frozenset(
    {
        "host",
        "port",
        "dbname",
        "user",
        "password",
        "passfile",
        "service",
        "options",
        "application_name",
    }
    | {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation"}
    | {"ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"}
    | {"target_session_attrs"}
)
"""The parameters that asyncpg reads, or that the server does."""

WITHOUT_EFFECT: Final[Mapping[str, frozenset[str] | None]] = {
    "channel_binding": frozenset({"disable", "prefer"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "client_encoding": frozenset({"auto", "utf8", "utf-8"}),
    "connect_timeout": None,
    "fallback_application_name": None,
    "keepalives": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "keepalives_count": None,
    "tcp_user_timeout": None,
    "sslcompression": None,
    "sslsni": None,
}
"""The other parameters of libpq that are accepted, with their values if not all: what they ask for is so anyway, or
only tunes a connection. A URL that was made for another client works."""

SESSIONS: Final = [one.value for one in asyncpg.connect_utils.SessionAttribute]

SPECIAL: Final = "write special characters of names and passwords as in %40 for @"


class Login(NamedTuple):
    """What a URL names, decoded."""

    user: str
    password: str
    database: str


def checked(setting: str, url: str) -> str:
    """The URL that a setting has. Raises LookupError with the setting's name, without the URL, if it is not valid."""
    try:
        login_of(url)
    except ValueError as error:
        raise LookupError(f"{setting} is not a PostgreSQL URL that can be used: {error}") from None
    return url


def arguments(url: str) -> dict[str, Any]:
    """The arguments of `asyncpg.connect` and `asyncpg.create_pool`. Raises ValueError, without the URL's secrets."""
    parts = urlsplit(_plain(url))
    query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    for name, value in query.items():
        allowed = WITHOUT_EFFECT.get(name, frozenset())
        if name not in READ and allowed is not None and value.lower() not in allowed:
            known = name in WITHOUT_EFFECT
            raise ValueError(
                f"{name}={value} is not supported" if known else f"there is no parameter {name}"
            )
        if name == "target_session_attrs" and value not in SESSIONS:
            raise ValueError(f"target_session_attrs={value} is none of {', '.join(SESSIONS)}")
    query = {name: value for name, value in query.items() if name in READ}
    if query.get("sslrootcert") == "system":
        query |= {"sslrootcert": _system_certificates(), "sslmode": "verify-full"}
    return {"dsn": urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))}


def _plain(url: str) -> str:
    """The URL. Raises ValueError for one in which the end of a password may be taken for something else."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("it does not begin with postgresql://")
    login, at, rest = url.partition("://")[2].partition("@")
    if "@" in rest.partition("?")[0] or "#" in url or (at and set(login) & set("/?")):
        raise ValueError(SPECIAL)
    return url


def _system_certificates() -> str:
    found = ssl.get_default_verify_paths().cafile
    if found is None:
        raise ValueError("sslrootcert=system: this system has no file of certificates")
    return found


def login_of(url: str) -> Login:
    """Role, password and database, by the rules of asyncpg: also from a parameter, a service or a password file.

    Raises ValueError as `arguments` does, and if a file that is named cannot be read.
    """
    given = dict.fromkeys(inspect.signature(_parse_connect_dsn_and_args).parameters) | arguments(
        url
    )
    try:
        hosts, found = _parse_connect_dsn_and_args(**given)
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise ValueError(str(error).splitlines()[0]) from None  # without a hint
    except OSError as error:
        raise ValueError(f"a file that it names cannot be used: {error.strerror}") from None
    except Exception:
        raise ValueError(f"a host, port or parameter is not valid; {SPECIAL}") from None
    if any(host[1] not in range(1, 65536) for host in hosts if not isinstance(host, str)):
        raise ValueError("a port is not valid")
    return Login(found.user, found.password or "", found.database)


def of_database(admin_url: str, service_url: str) -> str:
    """The administrator's URL of a service's database."""
    database = quote(login_of(service_url).database, safe="")
    return urlunsplit(urlsplit(admin_url)._replace(path=f"/{database}"))
