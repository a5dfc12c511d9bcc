"""A client of RabbitMQ's management API: applies the topology and reads the depths of queues.

https://www.rabbitmq.com/docs/management#http-api. Creating what exists with the same arguments changes nothing. With
other arguments it is an error: RabbitMQ cannot change a queue.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import httpx

from apps import SERVICES
from chassis.messaging.addresses import login_of, management_api, node_urls, vhost_of, with_login
from chassis.messaging.topology import Topology
from chassis.runtime.settings import required, settings

TIMEOUT_SECONDS: Final = 15.0


NO_ANSWER: Final = httpx.HTTPError
"""What the client raises if the API does not answer, or answers with an error."""


class TopologyConflictError(Exception):
    """The broker has an object of this name with other arguments."""


class Administration(httpx.Client):
    """The management API, with the login that its URL names."""

    def __init__(self, api_url: str) -> None:
        super().__init__(**management_api(api_url), timeout=TIMEOUT_SECONDS)

    def apply(self, wanted: Topology, users: Mapping[str, str]) -> None:
        """Create vhosts, exchanges, queues, bindings, users and permissions; remove these queues' other bindings.

        `users` maps services to AMQP addresses, which name user, password and vhost. Raises TopologyConflictError,
        or httpx.HTTPError if the broker cannot be reached.
        """
        urls = {service: node_urls(address)[0] for service, address in users.items()}
        for vhost in {vhost_of(url) for url in urls.values()}:
            self._create("PUT", f"vhosts/{_part(vhost)}", {})
            self._declare(wanted, _part(vhost))
        for service, url in urls.items():
            self._user(wanted, service, url)

    def _declare(self, wanted: Topology, vhost: str) -> None:
        for exchange in wanted.exchanges:
            body = {"type": "topic", "durable": True}
            self._create("PUT", f"exchanges/{vhost}/{exchange}", body)
        for queue in wanted.queues:
            name = _part(queue.name)
            body = {"durable": True, "auto_delete": False, "arguments": queue.arguments}
            self._create("PUT", f"queues/{vhost}/{name}", body)
            for exchange, key in queue.bindings:
                path = f"bindings/{vhost}/e/{exchange}/q/{name}"
                self._create("POST", path, {"routing_key": key})
            for found in self.get(f"queues/{vhost}/{name}/bindings").raise_for_status().json():
                exchange, key = found["source"], found["routing_key"]
                if exchange and (exchange, key) not in queue.bindings:
                    path = f"bindings/{vhost}/e/{_part(exchange)}/q/{name}"
                    self.delete(f"{path}/{_part(found['properties_key'])}").raise_for_status()

    def _user(self, wanted: Topology, service: str, url: str) -> None:
        name = _part(login_of(url)[0])
        existing = self.get(f"users/{name}")
        if existing.is_success and "administrator" in existing.json()["tags"]:
            return  # one login for all services, given from outside: its permissions are not changed
        # It may read what stands in its vhost, to watch the topology.
        body = {"password": unquote(urlsplit(url).password or ""), "tags": "management"}
        self._create("PUT", f"users/{name}", body)
        path = f"permissions/{_part(vhost_of(url))}/{name}"
        self._create("PUT", path, wanted.permissions(service))

    def create_monitoring_user(self, vhost: str, name: str, password: str) -> None:
        """Create a user who can read a vhost's queues in the management API, and nothing else."""
        user = _part(name)
        self._create("PUT", f"users/{user}", {"password": password, "tags": "management"})
        nothing = {"configure": "^$", "write": "^$", "read": "^$"}
        self._create("PUT", f"permissions/{_part(vhost)}/{user}", nothing)

    def queues(self, vhost: str) -> dict[str, tuple[int, int, int]]:
        """Of each queue: messages that are ready, those not acknowledged, consumers. Up to ten seconds old."""
        columns = "name,messages_ready,messages_unacknowledged,consumers"
        found = self.get(f"queues/{_part(vhost)}?columns={columns}").raise_for_status().json()
        return {
            one["name"]: (
                one.get("messages_ready", 0),
                one.get("messages_unacknowledged", 0),
                one.get("consumers", 0),
            )
            for one in found
        }

    def bindings(self, vhost: str) -> set[tuple[str, str, str]]:
        """Exchange, routing key and queue of each binding, as of this moment."""
        found = self.get(f"bindings/{_part(vhost)}").raise_for_status().json()
        return {(one["source"], one["routing_key"], one["destination"]) for one in found}

    def _create(self, method: str, path: str, body: Mapping[str, object]) -> None:
        response = self.request(method, path, json=body)
        if "inequivalent arg" in response.text:
            raise TopologyConflictError(f"{path}: {response.json()['reason']}")
        # A broker that has just started may also answer with 400: that is no conflict, and passes.
        response.raise_for_status()


def refuses_login(error: BaseException | None) -> bool:
    """Whether the API has refused the login."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403)


def _part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")


def administrator_address() -> str:
    """The address of the broker's nodes, with the login of CHORUS_RABBITMQ_API_URL. Raises LookupError."""
    config = settings()
    user, password = login_of(required("CHORUS_RABBITMQ_API_URL"))
    nodes = node_urls(config.broker_url(SERVICES[0]))
    return ",".join(with_login(url, user, password) for url in nodes)
