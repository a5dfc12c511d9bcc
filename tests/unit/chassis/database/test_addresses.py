"""PostgreSQL URLs: what is read of them, and what is said of one that is not valid."""

import inspect
import re
from importlib.metadata import version

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args

from chassis.database import addresses
from chassis.database.addresses import Login, arguments, checked, login_of, of_database
from ops.audit.access import auditor_url

SECRET = "s3cret"

NOT_VALID = {
    f"mysql://u:{SECRET}@h/d": "does not begin with postgresql://",
    f"postgresql+asyncpg://u:{SECRET}@h/d": "does not begin with postgresql://",
    f"u:{SECRET}@h/d": "does not begin with postgresql://",
    f"postgresql://u:{SECRET}@{SECRET}@h/d": "%40 for @",
    f"postgresql://u:{SECRET}/{SECRET}@h/d": "%40 for @",
    f"postgresql://u:{SECRET}?{SECRET}={SECRET}@h/d": "%40 for @",
    f"postgresql://u:{SECRET}#{SECRET}@h/d": "%40 for @",
    f"postgresql://u:[{SECRET}@h/d": "Invalid IPv6",
    f"postgresql://u:{SECRET}@h:port/d": "a host, port or parameter is not valid",
    f"postgresql://u:{SECRET}@h:65536/d": "a port is not valid",
    f"postgresql://u:{SECRET}@h,,i/d": "a host, port or parameter is not valid",
    f"postgresql://u:{SECRET}@h/d?sslmode": "bad query field: 'sslmode'",
    f"postgresql://u:{SECRET}@h/d?ssl=true": "there is no parameter ssl",
    f"postgresql://u:{SECRET}@h/d?schema=public": "there is no parameter schema",
    f"postgresql://u:{SECRET}@h/d?sslmode=on": "must be one of: disable, allow, prefer, require",
    f"postgresql://u:{SECRET}@h/d?channel_binding=require": "channel_binding=require is not supported",
    f"postgresql://u:{SECRET}@h/d?target_session_attrs=main": "none of any, primary",
    f"postgresql://u:{SECRET}@h/d?sslmode=verify-full&sslrootcert=/none": "No such file",
    f"postgresql://u:{SECRET}@h/d?sslmode=require&sslcert=/none&sslkey=/none": "No such file",
    f"postgresql://u:{SECRET}@h/d?sslmode=require&ssl_min_protocol_version=TLSv9": "TLSv9",
}

VALID = {
    "postgresql://u:p@h/d": Login("u", "p", "d"),
    "postgres://u:p@h:5433/d": Login("u", "p", "d"),
    "postgresql://u:p@one,two:5433/d?target_session_attrs=read-write": Login("u", "p", "d"),
    "postgresql://u:p@[::1]:5433/d": Login("u", "p", "d"),
    "postgresql://u:p@/d?host=/run/postgresql": Login("u", "p", "d"),
    "postgresql://u:p@%2Frun%2Fpostgresql/d": Login("u", "p", "d"),
    "postgresql:///d?user=u&password=p&host=one,two&port=1,2": Login("u", "p", "d"),
    "postgresql://h?dbname=d&user=u&password=p": Login("u", "p", "d"),
    "postgresql://u:%40%2F%3A%3F%23%25%20%D1%8F@h/a%20b": Login("u", "@/:?#% я", "a b"),
    "postgresql://u:a:b@h/d": Login("u", "a:b", "d"),
    "postgresql://u:p@h/d?sslmode=prefer&connect_timeout=10&keepalives=1": Login("u", "p", "d"),
    "postgresql://u:p@h/d?sslmode=require&channel_binding=prefer": Login("u", "p", "d"),
    "postgresql://u:p@h/d?application_name=x&options=-c%20geqo%3Doff": Login("u", "p", "d"),
    "postgresql://u:p@h/d?sslrootcert=system": Login("u", "p", "d"),
}


@pytest.mark.parametrize("url", VALID)
class TestValidUrl:
    def test_its_login_is_read(self, url: str) -> None:
        assert checked("SETTING", url) == url
        assert login_of(url) == VALID[url]

    def test_another_login_or_database_takes_the_place_of_its_own(self, url: str) -> None:
        user, _, database = VALID[url]
        assert login_of(auditor_url(url, "q@")) == Login(f"{user}_auditor", "q@", database)
        assert login_of(of_database("postgresql://a:b@h/c?dbname=e", url)).database == database


@pytest.mark.parametrize("url", NOT_VALID)
def test_a_url_that_is_not_valid_is_refused_by_its_setting_s_name_without_secrets(url: str) -> None:
    with pytest.raises(LookupError, match=re.escape(NOT_VALID[url])) as refused:
        checked("CHORUS_DATABASE_URL_ORDERS", url)
    line = str(refused.value.args[0])
    assert line.startswith("CHORUS_DATABASE_URL_ORDERS is not a PostgreSQL URL")
    assert SECRET not in line
    assert "\n" not in line


def test_system_certificates_always_verify_the_name() -> None:
    assert "sslmode=verify-full" in arguments("postgresql://h/d?sslrootcert=system")["dsn"]


class TestPrivateName:
    """A failure means that an upgrade has changed something that Chorus depends on."""

    def test_the_docstring_names_the_installed_version(self) -> None:
        assert f"asyncpg {version('asyncpg')}" in " ".join((addresses.__doc__ or "").split())

    def test_it_takes_the_parts_of_an_address(self) -> None:
        taken = inspect.signature(_parse_connect_dsn_and_args).parameters
        assert {"dsn", "host", "user", "password", "database", "ssl"} <= taken.keys()
