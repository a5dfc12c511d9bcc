"""Kinds of callers, and what each kind of route answers them."""

import time
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from chassis.web.auth import LEEWAY_SECONDS
from tests.support.tokens import Signer

OK: Final = 0
"""The documented success of a route, whatever its status is."""

Caller = Literal["user", "another user", "viewer", "operator"]
Of = Literal["user", "another user", "nobody"]
"""Whose id a path names; nobody's is unknown to the service."""

WITHOUT_TOKEN: Final = ("no token", "malformed", "expired", "forged")
CALLERS: Final[tuple[Caller, ...]] = ("user", "another user", "viewer", "operator")


class Answers(NamedTuple):
    """What routes of a kind answer those who have a valid token."""

    own: int
    """A user who names an id of their own, or none."""
    foreign: int
    """A user who names the id of another's object, or an unknown one: both look the same."""
    viewer: int
    viewer_unknown: int
    operator: int
    operator_unknown: int

    def to(self, caller: Caller, of: Of | None) -> int:
        """The status, or OK, for a caller and an id; without one the objects are the caller's own."""
        if caller in ("user", "another user"):
            return self.own if of in (caller, None) else self.foreign
        if caller == "viewer":
            return self.viewer_unknown if of == "nobody" else self.viewer
        return self.operator_unknown if of == "nobody" else self.operator


KINDS: Final = {
    "own": Answers(OK, 404, OK, OK, OK, OK),
    "read": Answers(OK, 404, OK, 404, OK, 404),
    "list": Answers(OK, 404, OK, OK, OK, OK),
    "write": Answers(OK, 404, 403, 403, OK, 404),
    "cancel": Answers(OK, 404, 404, 404, OK, 404),
    "operator": Answers(403, 403, 403, 403, OK, OK),
}
"""`own` names no id. A list of what belongs to an unknown user is empty for those who see everything."""

PUBLIC: Final = frozenset(
    {
        "POST /user/register",
        "POST /user/login",
        "POST /user/token/refresh",
        "POST /user/logout",
        "GET /.well-known/jwks.json",
        "GET /live",
        "GET /ready",
        "GET /metrics",
    }
)
"""The routes that need no token, and do not read one."""

DOCUMENTATION: Final = frozenset(
    {"/openapi.json", "/asyncapi.json", "/asyncapi", "/docs", "/docs/{name}"}
)
"""The routes without an operation in OpenAPI; public as well."""

SECURED: Final = {
    "GET /user/me": "own",
    "PUT /user/password": "own",
    "GET /user/view/{userId}": "read",
    "PATCH /user/{userId}": "write",
    "GET /account/{userId}": "read",
    "GET /account/{userId}/transactions": "list",
    "POST /account/{userId}/deposit": "write",
    "POST /account/{userId}/withdraw": "write",
    "POST /order/create": "own",
    "GET /order": "own",
    "GET /order/{orderId}": "read",
    "GET /order/{orderId}/events": "read",
    "POST /order/{orderId}/cancel": "cancel",
    "GET /notification": "own",
    "GET /notification?userId={userId}": "list",
    "GET /notification/{notificationId}": "read",
    "POST /notification/send": "operator",
}
"""The kind of each route that needs a token. A route of OpenAPI that is in no table fails the test."""


@dataclass(frozen=True)
class People:
    """Those who call a service, by kind, and an object of each user: an order or a notification."""

    ids: dict[Caller, UUID]
    objects: dict[Caller, UUID]

    def named(self, parameter: str, of: Of) -> str:
        """The value of a path's parameter."""
        if of == "nobody":
            return str(uuid7())
        return str((self.ids if parameter == "userId" else self.objects)[of])


def refused_tokens(signer: Signer, user: UUID) -> dict[str, str | None]:
    """By kind, what no route accepts that needs a token, each about a user who exists."""
    return {
        "no token": None,
        "malformed": "x.y.z",
        "expired": signer.token(user, "operator", exp=int(time.time()) - LEEWAY_SECONDS - 1),
        "forged": Signer(signer.key_id).token(user, "operator"),
    }
