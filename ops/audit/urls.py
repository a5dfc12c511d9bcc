"""What an audit connects to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from apps import SERVICES
from chassis.runtime.settings import Settings
from ops.audit.rights import auditor_url, broker_auditor
from ops.management import vhost_of, with_login


@dataclass(frozen=True)
class Urls:
    """The PostgreSQL of each service; of the broker what is given."""

    databases: Mapping[str, str]
    """By service. Any role that may read the tables of `READABLE` will do."""
    amqp: Mapping[str, str] = field(default_factory=dict)
    """By service, with a login that may read its queues."""
    rabbitmq_api: str | None = None
    vhost: str = "/"

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
    try:
        amqp = {service: config.broker_url(service) for service in SERVICES}
    except LookupError:
        return Urls(databases)
    vhost = vhost_of(next(iter(amqp.values())))
    if config.rabbitmq_api_url is None:
        return Urls(databases, amqp)
    api = config.rabbitmq_api_url.get_secret_value()
    if password is not None:
        api = with_login(api, broker_auditor(vhost), password)
    return Urls(databases, rabbitmq_api=api, vhost=vhost)
