"""What an audit connects to, and what its logins may read, as `chorus migrate` grants it.

Each service's database has a read-only role for the audit, named after the service's role. All have the same password,
CHORUS_AUDITOR_PASSWORD.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from apps import SERVICES
from chassis.database.addresses import login_of
from chassis.messaging.addresses import vhost_of, with_login
from chassis.runtime.settings import Settings
from events.users import UserState
from ops.audit.databases import PROGRAM
from ops.projections import PROJECTIONS

AUDITOR: Final = "_auditor"
"""What a service's role is followed by in the name of its auditor's."""

EVERYWHERE: Final = {
    "inbox": "",
    "processed_events": "",
    "outbox": "",
    "journal_outbox": "",
    "event_log": "(id, exchange, routing_key, occurred_at, events)",
}

NOTIFICATION: Final = (
    "(id, user_id, order_id, kind, channel, amount, address, subject, status, attempts, due_at, answer, created_at,"
    " sent_at, correlation_id, causation_id, correction)"
)

READABLE: Final[Mapping[str, Mapping[str, str]]] = {
    "users": {"users": f"({', '.join(UserState.model_fields)}, created_at, updated_at)"},
    "billing": dict.fromkeys(("accounts", "transfers", "ledger_entries", "charges"), ""),
    "orders": {"orders": ""},
    "notifications": {"notifications": NOTIFICATION},
}
"""Tables by service, with the columns if not all: no password hash, private key or notification body."""

SESSIONS: Final = f"""
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND usename = regexp_replace(session_user, '{AUDITOR}$', '') AND application_name IS DISTINCT FROM '{PROGRAM}'
"""  # noqa: S608 - of names in the code
"""How many connections the processes of a service have, as the auditor or the service itself sees them."""


def readable(service: str) -> dict[str, str]:
    """All tables that the audit reads in a service's database, its copies of others' data included."""
    copies = {one.name: "" for one in PROJECTIONS if one.service == service}
    return {**EVERYWHERE, **copies, **READABLE.get(service, {})}


@dataclass(frozen=True)
class Urls:
    """The PostgreSQL of each service; of the broker what is given."""

    databases: Mapping[str, str]
    """By service. Any role that may read the tables of `readable` will do."""
    amqp: Mapping[str, str] = field(default_factory=dict)
    """By service, with a login that may read its queues."""
    rabbitmq_api: str | None = None
    vhost: str = "/"
    retention: timedelta = timedelta(days=7)
    """For how long event logs keep what was published."""

    @property
    def delayed(self) -> bool:
        """Whether queue depths come from the management API, and may be old."""
        return self.rabbitmq_api is not None and not self.amqp


def urls_of(config: Settings) -> Urls:
    """URLs with the auditor's logins if its password is set, else with the services' own.

    Raises LookupError if a database's URL is not set. What is not set of the broker is left out.
    """
    password = config.auditor_password.get_secret_value() if config.auditor_password else None
    databases = {service: config.database_url(service) for service in SERVICES}
    if password is not None:
        databases = {service: auditor_url(url, password) for service, url in databases.items()}
    retention = timedelta(days=config.event_log_days)
    try:
        amqp = {service: config.broker_url(service) for service in SERVICES}
    except LookupError:
        return Urls(databases, retention=retention)
    if config.rabbitmq_api_url is None:
        return Urls(databases, amqp, retention=retention)
    vhost, api = vhost_of(amqp[SERVICES[0]]), config.rabbitmq_api_url.get_secret_value()
    if password is not None:
        api = with_login(api, broker_auditor(vhost), password)
    return Urls(databases, rabbitmq_api=api, vhost=vhost, retention=retention)


def auditor_url(url: str, password: str) -> str:
    """The URL of a service's database, with the auditor's login instead of the service's."""
    return with_login(url, f"{login_of(url).user}{AUDITOR}", password)


def broker_auditor(vhost: str) -> str:
    """The RabbitMQ user that may read how many messages are in the queues of a vhost."""
    return f"{vhost}{AUDITOR}"
