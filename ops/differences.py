"""How a broker's topology differs from the declared one, read from its management API; nothing is changed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import typer

from apps import SERVICES
from chassis.messaging.addresses import login_of, node_urls, vhost_of
from chassis.messaging.differences import LISTS, compared, topology_differences
from chassis.messaging.topology import Topology
from chassis.runtime.settings import Settings, required
from ops.management import Administration
from ops.subscriptions import TOPOLOGY

Read = Callable[[str], Any]


def differences(broker: Administration, wanted: Topology, users: Mapping[str, str]) -> list[str]:
    """A line for each difference, sorted; empty if there is none.

    `users` maps services to AMQP addresses, which name user and vhost. Raises httpx.HTTPError if the broker does not
    answer.
    """

    def read(path: str) -> Any:
        return broker.get(path).raise_for_status().json()

    urls = {service: node_urls(address)[0] for service, address in users.items()}
    found: list[str] = []
    for vhost in sorted({vhost_of(url) for url in urls.values()}):
        if broker.get(f"vhosts/{quote(vhost, safe='')}").status_code == 404:
            found.append(f"virtual host {vhost}: missing")
            continue
        logins = {s: login_of(url)[0] for s, url in urls.items() if vhost_of(url) == vhost}
        found += _of_vhost(read, quote(vhost, safe=""), wanted, logins)
    return sorted(found)


def check(config: Settings) -> int:
    """Print a line for each difference. Returns 0 if there is none, 1 if there are some.

    Raises LookupError if a setting is missing, or as `differences` does.
    """
    users = {service: config.broker_url(service) for service in SERVICES}
    with Administration(required("CHORUS_RABBITMQ_API_URL")) as broker:
        found = differences(broker, TOPOLOGY, users)
    for line in found:
        typer.echo(line)
    return 1 if found else 0


def _of_vhost(read: Read, vhost: str, wanted: Topology, logins: Mapping[str, str]) -> Iterator[str]:
    yield from topology_differences(wanted, {path: read(f"{path}/{vhost}") for path in LISTS})
    administrators = {one["name"] for one in read("users") if "administrator" in one["tags"]}
    rights = {
        one["user"]: {right: one[right] for right in ("configure", "write", "read")}
        for one in read(f"vhosts/{vhost}/permissions")
    }
    permissions = {
        login: wanted.permissions(service)
        for service, login in logins.items()
        if login not in administrators
    }
    yield from compared("permissions of", permissions, rights)
