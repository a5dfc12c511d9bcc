"""A client of RabbitMQ's management API: applies the topology and reads it back.

https://www.rabbitmq.com/docs/management#http-api. Creating what exists with the same arguments changes nothing. With
other arguments it is an error, because RabbitMQ cannot change a queue.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import httpx

from chassis.messaging.addresses import node_urls
from chassis.messaging.topology import Topology

TIMEOUT_SECONDS: Final = 15.0


class TopologyConflictError(Exception):
    """The broker has an object of this name with other arguments."""


class Administration:
    """The management API, with the login that its URL names."""

    def __init__(self, api_url: str) -> None:
        url = urlsplit(api_url)
        host = f"{url.hostname}:{url.port or 15672}"
        self._http = httpx.Client(
            base_url=urlunsplit((url.scheme, host, url.path.rstrip("/") + "/api/", "", "")),
            auth=(unquote(url.username or "guest"), unquote(url.password or "guest")),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def apply(self, wanted: Topology, users: Mapping[str, str]) -> None:
        """Create vhosts, exchanges, queues, bindings, users and permissions.

        `users` maps services to AMQP addresses, which name user, password and vhost. Raises TopologyConflictError,
        or httpx.HTTPError if the broker cannot be reached.
        """
        urls = {service: node_urls(address)[0] for service, address in users.items()}
        for vhost in {vhost_of(url) for url in urls.values()}:
            self._put(f"vhosts/{quote(vhost, safe='')}", {})
            self._declare(wanted, quote(vhost, safe=""))
        for service, url in urls.items():
            self._user(wanted, service, url)

    def _declare(self, wanted: Topology, vhost: str) -> None:
        for exchange in wanted.exchanges:
            self._put(f"exchanges/{vhost}/{exchange}", {"type": "topic", "durable": True})
        for queue in wanted.queues:
            self._put(
                f"queues/{vhost}/{quote(queue.name, safe='')}",
                {"durable": True, "auto_delete": False, "arguments": queue.arguments},
            )
            for exchange, key in queue.bindings:
                path = f"bindings/{vhost}/e/{exchange}/q/{quote(queue.name, safe='')}"
                self._request("POST", path, {"routing_key": key})

    def _user(self, wanted: Topology, service: str, url: str) -> None:
        parts = urlsplit(url)
        name = unquote(parts.username or "guest")
        if self._is_administrator(name):
            return  # one login for all services, given from outside: its permissions are not changed
        self._put(
            f"users/{quote(name, safe='')}", {"password": unquote(parts.password or ""), "tags": ""}
        )
        path = f"permissions/{quote(vhost_of(url), safe='')}/{quote(name, safe='')}"
        self._put(path, wanted.permissions(service))

    def create_monitoring_user(self, vhost: str, name: str, password: str) -> None:
        """Create a user who can read a vhost's queues in the management API, and nothing else."""
        user = quote(name, safe="")
        self._put(f"users/{user}", {"password": password, "tags": "management"})
        nothing = {"configure": "^$", "write": "^$", "read": "^$"}
        self._put(f"permissions/{quote(vhost, safe='')}/{user}", nothing)

    def _is_administrator(self, name: str) -> bool:
        answer = self._http.get(f"users/{quote(name, safe='')}")
        return answer.status_code == 200 and "administrator" in answer.json()["tags"]

    def live(self, vhost: str) -> dict[str, Any]:
        """A vhost's `exchanges`, `queues` and `bindings`, as the broker exports its definitions."""
        found: dict[str, Any] = self._get(f"definitions/{quote(vhost, safe='')}")
        return found

    def depths(self, vhost: str) -> dict[str, int]:
        """How many messages are in each queue, ready or unacknowledged. Up to five seconds old."""
        queues = self._get(f"queues/{quote(vhost, safe='')}?columns=name,messages")
        return {queue["name"]: queue.get("messages", 0) for queue in queues}

    def _get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def _put(self, path: str, body: Mapping[str, Any]) -> None:
        self._request("PUT", path, body)

    def _request(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        answer = self._http.request(method, path, json=dict(body))
        if answer.status_code == 400:
            raise TopologyConflictError(f"{path}: {answer.json().get('reason', answer.text)}")
        answer.raise_for_status()


def vhost_of(address: str) -> str:
    """The vhost in an AMQP address, "/" if it names none. All nodes of a cluster have the same."""
    return unquote(urlsplit(node_urls(address)[0]).path[1:]) or "/"


def with_login(url: str, user: str, password: str) -> str:
    """A URL with another login."""
    parts = urlsplit(url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))
