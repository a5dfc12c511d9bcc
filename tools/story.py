"""The story of the demo: Ada registers, pays in, places one order that she can pay and one that she cannot.

She gets an e-mail about each order.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx
from rich.markup import escape

from ops.console import console
from tools.console import seconds
from tools.system import Addresses

TIMEOUT_SECONDS = 20.0
Body = dict[str, Any]
Holds = Callable[[Any], object]
"""Whether the body of a response is what was waited for."""


class StoryFailed(Exception):
    """A step did not have the expected result. `part` is the part of the system that should have acted."""

    def __init__(self, part: str, step: str, expected: object, actual: object) -> None:
        super().__init__(f"{step}\n      expected: {expected}\n      actual:   {actual}")
        self.part = part


class Story:
    """Plays the story step by step. Every step is timed, checked and printed."""

    def __init__(self, addresses: Addresses) -> None:
        self._urls = {**addresses.services, "mail": addresses.mail}
        self._http = httpx.Client(timeout=15, trust_env=False)
        self._token: dict[str, str] = {}
        self._email = f"ada.{secrets.token_hex(3)}@example.com"
        self._password = secrets.token_hex(8)
        self._account = ""
        self._read: set[str] = set()
        self._begun = time.monotonic()

    def close(self) -> None:
        self._http.close()

    def play(self) -> None:
        self._title("Ada registers")
        self._register()
        self._title("She pays in")
        self._deposit("100.00")
        self._title("She places an order that she can pay")
        self._order("30.00", outcome="paid", balance="70.00", kind="joy")
        self._title("She places an order that she cannot pay")
        self._order("1000.00", outcome="rejected", balance="70.00", kind="sorrow")

    def _register(self) -> None:
        body = {"email": self._email, "password": self._password, "name": "Ada", "locale": "en"}
        user = self._post("users", "/user/register", body)
        self._account = f"/account/{user['userId']}"
        self._report("users", f"registers {self._email}", f"user {user['userId']}")
        login = {"email": self._email, "password": self._password}
        token = self._post("users", "/user/login", login, code=200)["accessToken"]
        self._token = {"Authorization": f"Bearer {token}"}
        self._report("users", "logs her in", "issues a token that every service can verify")
        self._get("billing", self._account, bool, "an account", balance="0.00")
        self._report("billing", "receives UserRegistered", "opens an account, balance 0.00")

    def _deposit(self, amount: str) -> None:
        body = {"amount": amount}
        self._post("billing", f"{self._account}/deposit", body, amount=amount, balance=amount)
        self._report("billing", f"accepts a deposit of {amount}", f"balance {amount}")

    def _order(self, total: str, *, outcome: str, balance: str, kind: str) -> None:
        placed = time.monotonic()
        body = {"totalPrice": total}
        order = self._post("orders", "/order/create", body, status="pending", totalPrice=total)
        order_id = order["orderId"]
        self._report("orders", f"accepts an order of {total}", f"pending, order {order_id}")

        order = self._get("orders", f"/order/{order_id}", _settled, "its outcome", status=outcome)
        event = "PaymentSucceeded" if outcome == "paid" else "PaymentRejected"
        reason = f": {order['reason']}" if order.get("reason") else ""
        self._report("orders", f"receives {event}", f"{outcome}{reason}")

        self._get("billing", self._account, bool, "an account", balance=balance)
        change = "balance decreased" if outcome == "paid" else "balance is unchanged"
        self._report("billing", change, balance)

        self._notification(order_id, event, kind)
        spent = seconds(time.monotonic() - placed)
        console.print(f"      [dim]from the order to its e-mail in the mailbox: {spent}[/]")

    def _notification(self, order_id: str, event: str, kind: str) -> None:
        path = f"/notification?orderId={order_id}"
        page = self._get("notifications", path, _sent, "a sent notification")
        notification = page["items"][0]
        self._expect("notifications", "the notification", notification, kind=kind, to=self._email)
        self._report("notifications", f"receives {event}, sends the notification of {kind}", "sent")
        emails = self._get("mail", "/email", self._unread, "a new e-mail to Ada")
        email = self._unread(emails)[0]
        self._read.add(email["id"])
        self._expect("mail", "the received e-mail", email, subject=notification["subject"])
        self._report("mail", "receives an e-mail", f"“{email['subject']}”")
        for line in filter(str.strip, email["text"].splitlines()):
            console.print(f"      [cyan]|[/] {escape(line)}")

    def _unread(self, emails: list[Body]) -> list[Body]:
        mine = (email for email in emails if self._email in str(email["to"]))
        return [email for email in mine if email["id"] not in self._read]

    def _get(self, part: str, path: str, holds: Holds, wanted: str, **fields: str) -> Any:
        """Poll until the body of the response `holds`, then check its fields. Raises StoryFailed."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            response = self._send(part, "GET", path)
            if response.status_code == 200 and holds(body := response.json()):
                return self._expect(part, f"GET {path}", body, **fields)
            if response.status_code not in {200, 404} or time.monotonic() > deadline:
                raise _failed(part, response, f"{wanted} within {TIMEOUT_SECONDS:.0f} s")
            time.sleep(0.01)

    def _post(self, part: str, path: str, body: Body, *, code: int = 201, **fields: str) -> Any:
        """Send one request, and check the status code and fields of its response. Raises StoryFailed."""
        response = self._send(part, "POST", path, body)
        if response.status_code != code:
            raise _failed(part, response, code)
        return self._expect(part, f"POST {path}", response.json(), **fields)

    def _send(self, part: str, method: str, path: str, body: Body | None = None) -> httpx.Response:
        try:
            headers = self._token if part != "mail" else {}
            url = f"{self._urls[part]}{path}"
            return self._http.request(method, url, json=body, headers=headers)
        except httpx.TransportError as error:
            raise StoryFailed(part, f"{method} {path}", "a response", repr(error)) from None

    def _expect(self, part: str, step: str, body: Any, **fields: str) -> Any:
        for name, value in fields.items():
            if body.get(name) != value:
                raise StoryFailed(part, step, f"{name} {value!r}", body)
        return body

    def _title(self, text: str) -> None:
        console.print(f"\n  [bold]{text}[/]")
        self._begun = time.monotonic()

    def _report(self, part: str, what: str, outcome: str) -> None:
        spent = seconds(time.monotonic() - self._begun)
        console.print(
            f"  [green]✓[/] [dim]{spent:>7}[/]  [bold]{part:<13}[/] {escape(what)}: {escape(outcome)}"
        )
        self._begun = time.monotonic()


def _failed(part: str, response: httpx.Response, expected: object) -> StoryFailed:
    step = f"{response.request.method} {response.url}"
    return StoryFailed(part, step, expected, f"{response.status_code} {response.text}")


def _settled(order: Body) -> bool:
    return bool(order["status"] != "pending")


def _sent(page: Body) -> bool:
    return any(item["status"] == "sent" for item in page["items"])
