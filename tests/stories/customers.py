"""Customers that use Chorus through its HTTP APIs only. Their requests are recorded for the audit."""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from bench.answers import Attempt
from events.money import to_minor
from events.users import Locale
from tests.stories.mail_server import Mail
from tests.support.eventually import eventually
from tests.support.processes import ServiceProcess

if TYPE_CHECKING:
    from tests.stories.stack import Stack

PASSWORD: Final = "correct horse battery"

Body = dict[str, Any]


class Customer:
    """A signed-in user. `flow` is the prefix of the correlation ids of all their requests."""

    def __init__(self, stack: "Stack", name: str, locale: Locale) -> None:
        self.stack = stack
        self.name = name
        self.locale = locale
        self.flow = f"story-{uuid7()}"
        self.addresses = [f"{self.flow}@example.com"]
        self.id = UUID(int=0)
        self.token = ""
        self.let_down = 0
        """How many of their requests for orders got no response."""
        self._requests = itertools.count(1)

    async def register(self) -> "Customer":
        """Register and sign in."""
        about = {"email": self.addresses[0], "name": self.name, "locale": self.locale}
        answer = await self.ask("users", "POST", "/user/register", about | {"password": PASSWORD})
        assert answer.status_code == 201, answer.text
        self.id = UUID(answer.json()["userId"])
        await self.sign_in()
        return self

    async def sign_in(self, password: str = PASSWORD) -> None:
        login = {"email": self.addresses[-1], "password": password}
        answer = await self.ask("users", "POST", "/user/login", login)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["accessToken"]

    async def ask(
        self,
        service: str | ServiceProcess,
        method: str,
        path: str,
        body: Body | None = None,
        **headers: str,
    ) -> httpx.Response:
        """One request; a header is written `Idempotency_Key=...`. Raises httpx.TransportError."""
        sent = {"X-Correlation-Id": f"{self.flow}.{next(self._requests)}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        http = self.stack.http(service)
        answer = await http.request(method, path, json=body, headers=sent)
        assert answer.headers["X-Correlation-Id"] == sent["X-Correlation-Id"]
        return answer

    async def sees(self, service: str | ServiceProcess, path: str) -> Body:
        """What a GET shows."""
        answer = await self.ask(service, "GET", path)
        assert answer.status_code == 200, answer.text
        shown: Body = answer.json()
        return shown

    # Money.

    async def deposit(self, amount: str) -> None:
        path = f"/account/{self.id}/deposit"
        answer = await self.ask("billing", "POST", path, {"amount": amount})
        assert answer.status_code == 201, answer.text

    async def withdraw(self, amount: str) -> httpx.Response:
        path = f"/account/{self.id}/withdraw"
        return await self.ask("billing", "POST", path, {"amount": amount})

    async def balance(self) -> str:
        account = await self.sees("billing", f"/account/{self.id}")
        balance: str = account["balance"]
        return balance

    # Orders.

    async def ask_for_order(
        self,
        total: str,
        *,
        at: str | ServiceProcess = "orders",
        key: str | None = None,
        **headers: str,
    ) -> httpx.Response:
        """One request for an order. Asked again with the same `key`, it is the same order."""
        correlation_id = headers.setdefault(
            "X_Correlation_Id", f"{self.flow}.{next(self._requests)}"
        )
        key = key or str(uuid7())
        attempt = Attempt(self.id, to_minor(total), key, correlation_id)
        self.stack.attempts.append(attempt)
        headers["Idempotency_Key"] = key
        answer = await self.ask(at, "POST", "/order/create", {"totalPrice": total}, **headers)
        if "orderId" in answer.text:  # also where the answer is that it was not paid
            attempt.order_id = UUID(answer.json()["orderId"])
        elif 400 <= answer.status_code < 500:
            attempt.refused = True
        return answer

    async def order(self, total: str, **options: Any) -> UUID:
        """An order that is accepted; its outcome is not waited for."""
        answer = await self.ask_for_order(total, **options)
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["orderId"])

    async def order_whatever_happens(
        self, total: str, *, replicas: Iterable[str | ServiceProcess] = ("orders",)
    ) -> UUID:
        """Retry the same order until there is a response, at each process in turn: one that is down comes back."""
        key = str(uuid7())
        turns = itertools.cycle(replicas)

        async def accepted() -> UUID:
            try:
                answer = await self.ask_for_order(total, at=next(turns), key=key)
            except httpx.TransportError as error:
                self.let_down += 1
                raise AssertionError(f"no answer: {error!r}") from None
            assert answer.status_code == 201, answer.text
            return UUID(answer.json()["orderId"])

        return await eventually(accepted, within=60)

    async def settled(self, order_id: UUID, *, within: float = 30) -> Body:
        """An order once it is no longer pending."""

        async def decided() -> Body:
            order = await self.sees("orders", f"/order/{order_id}")
            assert order["status"] != "pending", f"order {order_id} is still pending"
            return order

        return await eventually(decided, within=within)

    async def cancel(self, order_id: UUID) -> httpx.Response:
        return await self.ask("orders", "POST", f"/order/{order_id}/cancel")

    # Profile and notifications.

    async def change(self, **changes: str) -> Body:
        """Change name, email or locale."""
        answer = await self.ask("users", "PATCH", f"/user/{self.id}", changes)
        assert answer.status_code == 200, answer.text
        if "email" in changes:
            self.addresses.append(changes["email"])
        changed: Body = answer.json()
        return changed

    async def notifications(self, **filters: str) -> list[Body]:
        """Their notifications as the API lists them, newest first."""
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        page = await self.sees("notifications", f"/notification?{query}")
        items: list[Body] = page["items"]
        return items

    async def notified(self, order_id: UUID, kind: str, status: str = "sent") -> Body:
        """The one notification of a kind about an order, once it has a status."""

        async def listed() -> Body:
            found = await self.notifications(orderId=str(order_id), kind=kind)
            assert [notification["status"] for notification in found] == [status]
            return found[0]

        return await eventually(listed, within=30)

    async def mail(self, count: int) -> list[Mail]:
        """The e-mails in their mailboxes, once there are so many; more are an error."""

        async def arrived() -> list[Mail]:
            emails = self.stack.mail.to(*self.addresses)
            assert len(emails) >= count, f"{len(emails)} e-mails of {count}"
            return emails

        emails = await eventually(arrived, within=30)
        assert len(emails) == count, [email.subject for email in emails]
        return emails
