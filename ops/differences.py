"""How a broker's topology differs from the declared one, read from its management API; nothing is changed."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import httpx
import typer

from apps import SERVICES
from chassis.messaging.addresses import node_urls
from chassis.messaging.topology import Topology
from chassis.runtime.settings import Settings, required
from ops.management import Administration, vhost_of
from ops.subscriptions import TOPOLOGY

POLICIES: Final = {"policies": "policy", "operator-policies": "operator policy"}
"""Path in the management API, and what it lists. Chorus needs none: each would bend what a queue is declared to be."""

Read = Callable[[str], Any]


def differences(broker: Administration, wanted: Topology, users: Mapping[str, str]) -> list[str]:
    """A line for each difference, sorted; empty if there is none.

    `users` maps services to AMQP addresses, which name user and vhost. Raises httpx.HTTPError if the broker does not
    answer. What else there is on the broker, such as a queue bound to an exchange of Chorus, is no difference.
    """

    def read(path: str) -> Any:
        return broker.get(path).raise_for_status().json()

    urls = {service: node_urls(address)[0] for service, address in users.items()}
    found: list[str] = []
    for vhost in sorted({vhost_of(url) for url in urls.values()}):
        if broker.get(f"vhosts/{quote(vhost, safe='')}").status_code == 404:
            found.append(f"virtual host {vhost}: missing")
            continue
        logins = {
            s: unquote(urlsplit(u).username or "guest")
            for s, u in urls.items()
            if vhost_of(u) == vhost
        }
        found += _of_vhost(read, quote(vhost, safe=""), wanted, logins)
    return sorted(found)


def check(config: Settings) -> int:
    """Print a line for each difference. Returns 0 if there is none, 1 if there are some, 2 without an answer.

    Raises LookupError if a setting is missing.
    """
    users = {service: config.broker_url(service) for service in SERVICES}
    with Administration(required("CHORUS_RABBITMQ_API_URL")) as broker:
        try:
            found = differences(broker, TOPOLOGY, users)
        except httpx.HTTPError as error:
            typer.echo(f"the broker does not answer: {type(error).__name__}", err=True)
            return 2
    for line in found:
        typer.echo(line)
    return 1 if found else 0


def _of_vhost(read: Read, vhost: str, wanted: Topology, logins: Mapping[str, str]) -> Iterator[str]:
    exchanges = {one["name"]: (one["type"], one["durable"]) for one in read(f"exchanges/{vhost}")}
    yield from _compared("exchange", dict.fromkeys(wanted.exchanges, ("topic", True)), exchanges)
    queues = {one["name"]: one["arguments"] for one in read(f"queues/{vhost}")}
    yield from _compared("queue", {one.name: one.arguments for one in wanted.queues}, queues)
    yield from _bindings(wanted, read(f"bindings/{vhost}"))
    for path, name in POLICIES.items():
        yield from _policies(name, wanted, read(f"{path}/{vhost}"))
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
    yield from _compared("permissions of", permissions, rights)


def _compared(
    kind: str, wanted: Mapping[str, object], found: Mapping[str, object]
) -> Iterator[str]:
    for name, value in wanted.items():
        if name not in found:
            yield f"{kind} {name}: missing"
        elif found[name] != value:
            yield f"{kind} {name}: {found[name]} instead of {value}"


def _bindings(wanted: Topology, found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Missing bindings, and others that lead to a queue or an exchange of Chorus."""
    declared = {
        (exchange, key, one.name) for one in wanted.queues for exchange, key in one.bindings
    }
    ours = {*wanted.exchanges, *(one.name for one in wanted.queues)}
    bound = {
        (one["source"], one["routing_key"], one["destination"])
        for one in found
        if one["source"] and one["destination"] in ours
    }
    for exchange, key, name in declared - bound:
        yield f"binding {exchange} -> {name} ({key}): missing"
    for exchange, key, name in bound - declared:
        yield f"binding {exchange} -> {name} ({key}): not declared"


def _policies(kind: str, wanted: Topology, found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    queues = [one.name for one in wanted.queues]
    for policy in found:
        names = {"exchanges": wanted.exchanges, "all": (*queues, *wanted.exchanges)}
        for name in names.get(policy["apply-to"], queues):
            if re.search(policy["pattern"], name):
                yield f"{kind} {policy['name']}: applies to {name}: {policy['definition']}"
