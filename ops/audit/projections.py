"""Rules on copies: of users, and of the public signing keys."""

from typing import Final

from apps import SERVICES
from ops.audit.digests import Lines
from ops.audit.rules import Comparison, View, WholeCheck

KEYS: Final = "SELECT key_id, x FROM signing_keys WHERE valid_until > now()"


def _users(service: str, table: str, columns: str, at: str = "NULL::timestamptz") -> Lines:
    return Lines(service, f"SELECT id, ROW({columns})::text AS line, {at} AS at FROM {table}")


USERS: Final = tuple(
    Comparison(
        7, "user", _users(service, table, columns), _users("users", "users", columns, "updated_at")
    )
    for service, table, columns in (
        ("billing", "holders", "version"),
        ("orders", "customers", "version"),
        ("notifications", "recipients", "email, name, locale, version"),
    )
)
"""Every copy of a user equals the owner's row, in the columns that it has."""


async def _differing_keys(view: View) -> list[str]:
    keys = {service: {*await view.databases[service].rows(KEYS)} for service in SERVICES}
    return [
        f"{service} knows other signing keys than users does"
        for service in SERVICES
        if keys[service] != keys["users"]
    ]


SIGNING_KEYS: Final = WholeCheck(7, _differing_keys)
