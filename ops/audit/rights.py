"""What the audit reads, and no more: `chorus migrate` lets its roles look at these tables and columns.

Each service's database has a role of its own for that, which can change nothing: named after the service's role, with
one password for all, CHORUS_AUDITOR_PASSWORD.
"""

from typing import Final
from urllib.parse import unquote, urlsplit

from ops.management import with_login

EVERYWHERE: Final = ("inbox", "outbox (occurred_at)", "signing_keys")

LETTER: Final = (
    "id, user_id, order_id, kind, amount, address, subject, status, created_at, correlation_id,"
    " causation_id"
)

READABLE: Final = {
    "users": ("users (id, email, name, locale, version, created_at, updated_at)",),
    "billing": ("accounts", "transfers", "ledger_entries", "charges", "holders"),
    "orders": ("orders", "customers"),
    "notifications": (f"notifications ({LETTER})", "recipients"),
}
"""By service, and in parentheses the columns: never a password's hash, a private key or a letter's body."""


def auditor_url(url: str, password: str) -> str:
    """A service's URL, of a database or of the broker, with the auditor's login instead of the service's."""
    return with_login(url, f"{unquote(urlsplit(url).username or '')}_auditor", password)


def broker_auditor(vhost: str) -> str:
    """The user of RabbitMQ that may look how many messages lie in the queues of a vhost."""
    return f"{vhost}_auditor"


def grants(service: str) -> list[tuple[str, str]]:
    """Tables and, in parentheses or empty, columns."""
    found = []
    for table in (*EVERYWHERE, *READABLE.get(service, ())):
        name, bracket, columns = table.partition(" (")
        found.append((name, f"({columns}" if bracket else ""))
    return found
