"""Customers, their requests and the responses; what was confirmed to them must hold at rest.

A customer retries until there is a response: a lost response is not an outcome. Requests about money and orders carry
an idempotency key; those about addresses and cancellations are idempotent by nature.
"""

import asyncio
import itertools
import json
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from fastapi import Response

from apps.billing import use_cases as billing
from apps.billing.schemas import ReceiptView
from apps.billing.use_cases import MoveFunds
from apps.orders import use_cases as orders
from apps.orders.schemas import OrderView
from apps.orders.use_cases import CancelOrder, PlaceOrder
from apps.users import use_cases as users
from apps.users.models import Profile
from apps.users.schemas import RegisteredView, UserView
from apps.users.use_cases import ChangeUser, RegisterUser
from bench.answers import Attempt
from chassis.database.group_commit import Work
from chassis.web.commands import IdempotentRequest
from events.base import Causation
from tests.stories.snapshot import Snapshot

if TYPE_CHECKING:
    from tests.simulation.world import World

AGAIN_SECONDS: Final = 0.25
"""Seconds before a customer retries."""


@dataclass
class Customer:
    """A user, as the responses to their requests describe them."""

    id: UUID
    addresses: dict[int, str]
    """The address in each version of the user that a response contained."""
    paid_in: int = 0
    """Confirmed deposits less confirmed withdrawals, in minor units."""
    has_asked: bool = False
    """Whether they have requested an order."""
    has_placed: asyncio.Event = field(default_factory=asyncio.Event)
    placed: list[UUID] = field(default_factory=list)
    cancelled: set[UUID] = field(default_factory=set)
    """Orders whose cancellation was confirmed."""
    too_late: set[UUID] = field(default_factory=set)
    """Orders whose cancellation was refused: they had been rejected before."""


class Customers:
    """All customers, and every request without a response."""

    def __init__(self, world: "World") -> None:
        self.all: list[Customer] = []
        self.addresses: set[str] = set()
        """Every address that anybody has asked for."""
        self.attempts: list[Attempt] = []
        """Every order that anybody has asked for."""
        self.commands: set[asyncio.Task[None]] = set()
        """Those that have not been answered."""
        self._world = world
        self._numbers = itertools.count(1)

    # Requests.

    def register(self, address: str) -> None:
        """A customer registers. Without a response there is no retry."""
        self._start(
            self._register(f"{address}{next(self._numbers)}@simulated.test"), "registration"
        )

    def move_house(self, who: int, times: int) -> None:
        """A customer changes their address, perhaps several times at once."""
        if customer := self._customer(who):
            for _ in range(times):
                address = f"moved{next(self._numbers)}@simulated.test"
                self._start(self._move_house(customer, address), "move")

    def deposit(self, who: int, amount: int, times: int) -> None:
        """A customer deposits money; the same request may be sent several times at once."""
        self._move_money(who, amount, times, out=False)

    def withdraw(self, who: int, amount: int, times: int) -> None:
        """A customer withdraws money; the same request may be sent several times at once."""
        self._move_money(who, amount, times, out=True)

    def order(self, who: int, total: int, times: int) -> None:
        """A customer places an order; the same request may be sent several times at once."""
        if customer := self._customer(who):
            customer.has_asked = True
            self._start(self._order(customer, total, f"key{next(self._numbers)}", times), "order")

    def cancel(self, who: int, which: int) -> None:
        """A customer cancels one of their orders, once one is placed. Nothing happens if they requested none."""
        if (customer := self._customer(who)) and customer.has_asked:
            self._start(self._cancel(customer, which), "cancellation")

    def _move_money(self, who: int, amount: int, times: int, *, out: bool) -> None:
        if customer := self._customer(who):
            key = f"key{next(self._numbers)}"
            self._start(self._move(customer, amount, key, times, out=out), "money")

    def _customer(self, who: int) -> Customer | None:
        return self.all[who % len(self.all)] if self.all else None

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._world.loop.begin(work, name)
        self.commands.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.commands.discard(task)
        if error := task.exception():
            self._wrong(f"a customer was surprised: {error!r}")

    def _wrong(self, what: str) -> None:
        self._world.findings.append(what)

    # Sending, and the checks of the responses.

    async def _register(self, address: str) -> None:
        self.addresses.add(address)
        command = RegisterUser(Profile(address, "Ada", "en"), "no hash", self._cause())
        asked = IdempotentRequest(command, "/user/register", RegisteredView.model_validate, 201)
        answer = await self._world.ask("users", users.register_users, asked)
        if answer is not None:
            id = UUID(_body_of(answer, 201)["userId"])
            self.all.append(Customer(id, {1: address}))

    async def _move_house(self, customer: Customer, address: str) -> None:
        self.addresses.add(address)
        command = ChangeUser(customer.id, {"name": "Ada King", "email": address}, self._cause())
        asked = IdempotentRequest(command, f"/user/{customer.id}", UserView.model_validate)
        user = _body_of(await self._insist("users", users.change_users, asked), 200)
        if user["email"] != address:
            self._wrong(f"customer {customer.id} requested {address} and received {user['email']}")
        known = customer.addresses.setdefault(user["version"], user["email"])
        if known != user["email"]:
            self._wrong(
                f"customer {customer.id} received {known} and {user['email']}, as one version"
            )

    async def _move(
        self, customer: Customer, amount: int, key: str, times: int, *, out: bool
    ) -> None:
        use_case, what = (billing.withdraw, "withdraw") if out else (billing.deposit, "deposit")
        command = MoveFunds(customer.id, amount, self._cause(), by_owner=True)
        path = f"/account/{customer.id}/{what}"
        asked = IdempotentRequest(
            command,
            path,
            ReceiptView.model_validate,
            201,
            key=(customer.id, key),
            fingerprint=f"{path} {amount}",
        )
        answer = await self._insist("billing", use_case, asked, times)
        if not (out and answer.status_code == 403):
            _body_of(answer, 201)
            customer.paid_in += -amount if out else amount

    async def _order(self, customer: Customer, total: int, key: str, times: int) -> None:
        cause = self._cause()
        attempt = Attempt(customer.id, total, key, cause.correlation_id)
        self.attempts.append(attempt)
        command = PlaceOrder(customer.id, total, cause)
        asked = IdempotentRequest(
            command,
            "/order/create",
            OrderView.model_validate,
            201,
            key=(customer.id, key),
            fingerprint=f"order {total}",
        )
        answer = await self._insist("orders", orders.place_orders, asked, times)
        attempt.order_id = UUID(_body_of(answer, 201)["orderId"])
        customer.placed.append(attempt.order_id)
        customer.has_placed.set()

    async def _cancel(self, customer: Customer, which: int) -> None:
        await customer.has_placed.wait()
        order_id = customer.placed[which % len(customer.placed)]
        command = CancelOrder(order_id, customer.id, self._cause())
        path = f"/order/{order_id}/cancel"
        asked = IdempotentRequest(command, path, OrderView.model_validate)
        answer = await self._insist("orders", orders.cancel_orders, asked)
        if answer.status_code == 409:
            customer.too_late.add(order_id)
            return
        customer.cancelled.add(order_id)
        if (status := _body_of(answer, 200)["status"]) != "cancelled":
            self._wrong(f"customer {customer.id} cancelled {order_id} and received status {status}")

    async def _insist(
        self, service: str, use_case: Work[Any, Any], asked: IdempotentRequest[Any], times: int = 1
    ) -> Response:
        """Retry until there is a response. Simultaneous requests get the same one."""
        answers = await asyncio.gather(
            *(self._until_answered(service, use_case, asked) for _ in range(times))
        )
        if len(bodies := {(answer.status_code, bytes(answer.body)) for answer in answers}) != 1:
            self._wrong(f"a customer got several responses to one request: {bodies}")
        return answers[0]

    async def _until_answered(
        self, service: str, use_case: Work[Any, Any], asked: IdempotentRequest[Any]
    ) -> Response:
        while True:
            answer = await self._world.ask(service, use_case, replace(asked))
            if answer is not None:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)

    def _cause(self) -> Causation:
        return Causation(f"flow{next(self._numbers)}")

    # The end.

    def deceived(self, snapshot: Snapshot, paid_in: Mapping[UUID, int]) -> Iterator[str]:
        """Yield each confirmation that does not hold. `paid_in` is each customer's sum in the ledger."""
        known = {user.id: user for user in snapshot.users}
        statuses = {order.id: order.status for order in snapshot.orders}
        for one in self.all:
            who = f"customer {one.id}"
            if one.paid_in != paid_in.get(one.id, 0):
                yield f"{who} has put in {one.paid_in}, the ledger says {paid_in.get(one.id, 0)}"
            user, address = known.get(one.id), max(one.addresses.items())
            if user is None or (user.version, user.email) != address:
                yield f"{who} received {address}, but the user is {user}"
            for id in sorted(one.cancelled):
                if statuses.get(id) != "cancelled":
                    yield f"{who} received that {id} is cancelled, but it is {statuses.get(id)}"
            for id in sorted(one.too_late):
                if statuses.get(id) != "rejected":
                    yield f"{who} received that {id} was rejected, but it is {statuses.get(id)}"


def _body_of(answer: Response, status: int) -> dict[str, Any]:
    """Return the body of a response. Raises AssertionError if its status is another one."""
    assert answer.status_code == status, (answer.status_code, answer.body)
    body: dict[str, Any] = json.loads(bytes(answer.body))
    return body
