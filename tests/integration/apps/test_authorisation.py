"""Every route, by every kind of caller, for one's own id, another's and an unknown one.

The table is in tests.support.callers, the routes come from the services' OpenAPI documents. A refusal writes nothing,
and does not tell whether another's object exists.
"""

import importlib
import re
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from apps import SERVICES
from apps.users.models import Profile
from apps.users.passwords import Passwords
from apps.users.use_cases import RegisterUser, register_users
from chassis.web.routing import StrictRoute
from events.base import Causation
from tests.support.builders import a_user
from tests.support.callers import (
    CALLERS,
    DOCUMENTATION,
    KINDS,
    OK,
    PUBLIC,
    SECURED,
    Caller,
    Of,
    People,
    refused_tokens,
)
from tests.support.fixtures import Run
from tests.support.harness import RunningService
from tests.support.operations import ALL_OPERATIONS, Endpoint, Operation, is_problem
from tests.support.purse import open_with
from tests.support.registering import PASSWORD, an_address, together

OPERATIONS = {f"{one.service} {one}": one for one in ALL_OPERATIONS}
BODIES: dict[str, Any] = {"PATCH /user/{userId}": {"name": "Ann"}}
"""Instead of the example in OpenAPI."""

REASONS = {403: "forbidden", 404: "not_found"}

OTHER_SUCCESS = {"PUT /user/password": 403}
"""The old password in the example is not theirs; the refusal comes after the token was accepted."""


async def callers_of(service: RunningService) -> People:
    """Two users with an account, an order, a notification or a profile, a viewer and an operator."""
    ids: dict[Caller, Any] = {caller: uuid7() for caller in CALLERS}
    objects: dict[Caller, Any] = {}
    if service.name == "users":
        hashed = await service.provided(Passwords).hash(PASSWORD)
        commands = [
            RegisterUser(Profile(an_address(), "Ada", "en"), hashed, Causation(str(uuid7())))
            for _ in CALLERS
        ]
        registered = await together(service, register_users, commands)
        ids = {caller: user.id for caller, user in zip(CALLERS, registered, strict=True)}
    for caller in CALLERS[:2]:
        user = a_user(id=ids[caller])
        if service.name == "billing":
            await open_with(service, user, "1000.00")
        elif service.name == "orders":
            async with service.http(user) as http:
                placed = await http.post("/order/create", json={"totalPrice": "1.00"})
                objects[caller] = placed.json()["orderId"]
                # A stream about it ends at once.
                assert (await http.post(f"/order/{objects[caller]}/cancel")).status_code == 200
        elif service.name == "notifications":
            message = {"userId": str(user.id), "subject": "Hello", "body": "It is on its way."}
            async with service.as_operator() as http:
                objects[caller] = (await http.post("/notification/send", json=message)).json()[
                    "notificationId"
                ]
    await service.is_quiet()
    return People(ids, objects)


class Route:
    """A route of a running service."""

    def __init__(self, template: str, operation: Operation, service: RunningService) -> None:
        self.template = template
        self.operation = operation
        self.service = service
        self.body = BODIES.get(str(operation), operation.body)
        self.parameters = re.findall(r"{(\w+)}", self.template)
        self.ids: tuple[Of | None, ...] = (
            ("user", "another user", "nobody") if self.parameters else (None,)
        )
        documented = min(int(status) for status in operation.definition["responses"])
        self.success = OTHER_SUCCESS.get(str(operation), documented)

    async def asked(
        self, people: People, of: Of | None, token: str | None, body: Any = None
    ) -> tuple[httpx.Response, str]:
        """The response, and its text with the id replaced."""
        path, id = self.template, ""
        for name in self.parameters:
            assert of is not None
            id = people.named(name, of)
            path = path.replace(f"{{{name}}}", id)
        async with self.service.http(token=token) as http:
            answer = await http.request(
                self.operation.method.upper(), path, json=self.body if body is None else body
            )
        return answer, answer.text.replace(id, "ID") if id else answer.text


@pytest.fixture
async def route(request: pytest.FixtureRequest, running_service: Run) -> Route:
    name: str = request.param
    operation = OPERATIONS[name.partition("?")[0]]
    return Route(name.split()[2], operation, await running_service(operation.service))


def test_every_route_is_in_the_table() -> None:
    secured = {str(one) for one in ALL_OPERATIONS if "security" in one.definition}
    assert secured == {name.partition("?")[0] for name in SECURED}
    assert {str(one) for one in ALL_OPERATIONS} - secured == PUBLIC


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_is_documented(service: str) -> None:
    app = importlib.import_module(f"apps.{service}.main").app
    documented = {
        (one.method.upper(), one.path) for one in ALL_OPERATIONS if one.service == service
    }
    served = {
        (method, route.path)
        for route in app.routes
        for method in (route.methods if isinstance(route, StrictRoute) else None) or ()
    }
    assert served == documented | {("GET", path) for path in DOCUMENTATION}


def routes(*names: str) -> pytest.MarkDecorator:
    """These routes, each with the names of the services that have it."""
    found = [
        f"{one.service} {name}"
        for one in ALL_OPERATIONS
        for name in sorted(names)
        if str(one) == name.partition("?")[0]
    ]
    return pytest.mark.parametrize("route", found, indirect=True)


@routes(*SECURED)
async def test_a_caller_may_do_what_the_table_says_and_nothing_else(route: Route) -> None:
    service, people = route.service, await callers_of(route.service)
    answers = KINDS[SECURED[f"{route.operation.method.upper()} {route.template}"]]
    allowed: list[tuple[Caller, Of | None, str]] = []
    before = await Endpoint(route.operation, service).written()
    for kind, token in refused_tokens(service.signer, people.ids["user"]).items():
        texts = set()
        for of in route.ids:
            answer, text = await route.asked(people, of, token)
            assert is_problem(answer, 401)["reason"] == "unauthorized", kind
            texts.add(text)
        assert len(texts) == 1, texts
    for caller in CALLERS:
        role = caller if caller in ("viewer", "operator") else "user"
        token = service.signer.token(people.ids[caller], role)
        refusals: dict[int, set[str]] = {}
        for of in route.ids:
            expected = answers.to(caller, of)
            if expected == OK:
                allowed.append((caller, of, token))
                continue
            answer, text = await route.asked(people, of, token)
            assert is_problem(answer, expected)["reason"] == REASONS[expected]
            refusals.setdefault(expected, set()).add(text)
        assert all(len(texts) == 1 for texts in refusals.values()), refusals
    assert await Endpoint(route.operation, service).written() == before
    for caller, of, token in allowed:
        answer, _ = await route.asked(people, of, token)
        assert answer.status_code == route.success, (caller, of, answer.text)
        if caller in ("user", "another user"):
            other: Caller = "another user" if caller == "user" else "user"
            for foreign in (people.ids[other], people.objects.get(other, people.ids[other])):
                assert str(foreign) not in answer.text, (caller, of, answer.text)


@routes(*PUBLIC)
async def test_a_public_route_answers_everybody_alike(route: Route) -> None:
    people = await callers_of(route.service)
    signer = route.service.signer
    tokens = refused_tokens(signer, people.ids["user"]) | {
        "user": signer.token(people.ids["user"]),
        "operator": signer.token(people.ids["operator"], "operator"),
    }
    for kind, token in tokens.items():
        answer, _ = await route.asked(people, None, token, {} if route.body else None)
        assert answer.status_code == (422 if route.body else 200), (kind, answer.text)
