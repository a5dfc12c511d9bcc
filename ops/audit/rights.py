"""What the audit's roles may read, as `chorus migrate` grants it: these tables and columns, and no more.

Each service's database has a read-only role for the audit, named after the service's role. All have the same password,
CHORUS_AUDITOR_PASSWORD.
"""

from typing import Final
from urllib.parse import unquote, urlsplit

from ops.management import with_login

EVERYWHERE: Final = ("inbox", "outbox (occurred_at)", "signing_keys")

NOTIFICATION: Final = (
    "id, user_id, order_id, kind, amount, address, subject, status, created_at, correlation_id,"
    " causation_id"
)

READABLE: Final = {
    "users": ("users (id, email, name, locale, version, created_at, updated_at)",),
    "billing": ("accounts", "transfers", "ledger_entries", "charges", "holders"),
    "orders": ("orders", "customers"),
    "notifications": (f"notifications ({NOTIFICATION})", "recipients"),
}
"""By service, and in parentheses the columns: no password hash, private key or notification body."""


def auditor_url(url: str, password: str) -> str:
    """A service's URL, of a database or of the broker, with the auditor's login instead of the service's."""
    return with_login(url, f"{unquote(urlsplit(url).username or '')}_auditor", password)


def broker_auditor(vhost: str) -> str:
    """The RabbitMQ user that may read how many messages are in the queues of a vhost."""
    return f"{vhost}_auditor"


def grants(service: str) -> list[tuple[str, str]]:
    """Tables, each with its columns in parentheses, or an empty string for all columns."""
    found = []
    for table in (*EVERYWHERE, *READABLE.get(service, ())):
        name, bracket, columns = table.partition(" (")
        found.append((name, f"({columns}" if bracket else ""))
    return found
