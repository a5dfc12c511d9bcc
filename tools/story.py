"""The story: Ada registers, pays in, orders what she can afford and what she cannot, and gets a letter about each."""

import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx
from rich.markup import escape

from ops.console import console
from tools.console import seconds
from tools.system import Addresses

PATIENCE_SECONDS = 20.0
Body = dict[str, Any]


class StoryFailed(Exception):
    """A step was not as told. `part` is the part of the system that should have acted."""

    def __init__(self, part: str, step: str, expected: object, seen: object) -> None:
        super().__init__(f"{step}\n      expected: {expected}\n      seen:     {seen}")
        self.part = part


class Story:
    """One customer's story, told step by step; every step is timed and checked."""

    def __init__(self, addresses: Addresses) -> None:
        self._http = {
            part: httpx.Client(base_url=url, timeout=15, trust_env=False)
            for part, url in {**addresses.services, "mail": addresses.mail}.items()
        }
        self._email = f"ada.{secrets.token_hex(3)}@example.com"
        self._password = secrets.token_hex(8)
        self._user_id = ""
        self._read: set[str] = set()
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for client in self._http.values():
            client.close()

    def play(self) -> None:
        self._title("Ada registers")
        self._register()
        self._title("She pays in")
        self._deposit("100.00")
        self._title("An order that fits")
        self._order("30.00", outcome="paid", balance="70.00", kind="joy")
        self._title("An order that does not")
        self._order("1000.00", outcome="rejected", balance="70.00", kind="sorrow")

    def _register(self) -> None:
        body = {"email": self._email, "password": self._password, "name": "Ada", "locale": "en"}
        user = self._ask("users", "POST", "/user/register", 201, body)
        self._user_id = user["userId"]
        self._tell("users", f"registers as {self._email}", f"user {self._user_id}")
        login = {"email": self._email, "password": self._password}
        token = self._ask("users", "POST", "/user/login", 200, login)["accessToken"]
        for part, client in self._http.items():
            if part != "mail":
                client.headers["Authorization"] = f"Bearer {token}"
        self._tell("users", "logs in", "gets a token that every service can check")
        account = self._await(
            "billing", f"/account/{self._user_id}", lambda seen: "balance" in seen, "an account"
        )
        self._expect("billing", "a new account", account, balance="0.00")
        self._tell("billing", "hears UserRegistered", "opens an account, balance 0.00")

    def _deposit(self, amount: str) -> None:
        receipt = self._ask(
            "billing", "POST", f"/account/{self._user_id}/deposit", 201, {"amount": amount}
        )
        self._expect("billing", "the deposit", receipt, amount=amount, balance=amount)
        self._tell("billing", f"takes {amount}", f"balance {amount}")

    def _order(self, total: str, *, outcome: str, balance: str, kind: str) -> None:
        placed = time.monotonic()
        order = self._ask("orders", "POST", "/order/create", 201, {"totalPrice": total})
        self._expect("orders", "the new order", order, status="pending", totalPrice=total)
        order_id = order["orderId"]
        self._tell("orders", f"takes an order of {total}", f"pending, order {order_id}")

        order = self._await(
            "orders", f"/order/{order_id}", _is_settled, "an order that is not pending"
        )
        self._expect("orders", "the settled order", order, status=outcome)
        received = "PaymentSucceeded" if outcome == "paid" else "PaymentRejected"
        reason = f": {order['reason']}" if order.get("reason") else ""
        self._tell("orders", f"hears {received}", f"{outcome}{reason}")

        account = self._ask("billing", "GET", f"/account/{self._user_id}", 200)
        self._expect("billing", "the account after the order", account, balance=balance)
        self._tell(
            "billing", "balance fell" if outcome == "paid" else "balance is unchanged", balance
        )

        self._letter(order_id, kind)
        spent = seconds(time.monotonic() - placed)
        console.print(f"      [dim]from the order to its letter in the mailbox: {spent}[/]")

    def _letter(self, order_id: str, kind: str) -> None:
        page = self._await(
            "notifications", f"/notification?orderId={order_id}", _is_sent, "a sent letter"
        )
        notification = page["items"][0]
        self._expect("notifications", "the letter", notification, kind=kind, to=self._email)
        self._tell("notifications", f"hears the outcome, writes the letter of {kind}", "sent")
        letters = self._await(
            "mail", "/email", lambda seen: bool(self._unread(seen)), "a new letter to Ada"
        )
        letter = self._unread(letters)[0]
        self._read.add(letter["id"])
        self._expect("mail", "the letter that arrived", letter, subject=notification["subject"])
        self._tell("mail", "a letter arrives", f"“{letter['subject']}”")
        for line in filter(str.strip, letter["text"].splitlines()):
            console.print(f"      [cyan]|[/] {escape(line)}")

    def _unread(self, letters: list[Body]) -> list[Body]:
        return [
            letter
            for letter in letters
            if letter["id"] not in self._read
            and self._email in [recipient["address"] for recipient in letter["to"]]
        ]

    def _ask(self, part: str, method: str, path: str, status: int, body: Body | None = None) -> Any:
        """One request, with the answer's JSON. Raises StoryFailed for another status or no answer."""
        answer = self._send(part, method, path, body)
        if answer.status_code != status:
            seen = f"{answer.status_code} {answer.text}"
            raise StoryFailed(part, f"{method} {answer.url}", status, seen)
        return answer.json()

    def _await(self, part: str, path: str, holds: Callable[[Any], bool], wanted: str) -> Any:
        """Asks again until the answer holds. Raises StoryFailed after PATIENCE_SECONDS."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self._send(part, "GET", path)
            if answer.status_code == 200 and holds(answer.json()):
                return answer.json()
            if answer.status_code not in {200, 404} or time.monotonic() > deadline:
                expected = f"{wanted} within {PATIENCE_SECONDS:.0f} s"
                seen = f"{answer.status_code} {answer.text}"
                raise StoryFailed(part, f"GET {answer.url}", expected, seen)
            time.sleep(0.01)

    def _send(self, part: str, method: str, path: str, body: Body | None = None) -> httpx.Response:
        try:
            return self._http[part].request(method, path, json=body)
        except httpx.TransportError as error:
            raise StoryFailed(part, f"{method} {path}", "an answer", repr(error)) from None

    def _expect(self, part: str, step: str, seen: Body, **fields: str) -> None:
        for name, value in fields.items():
            if seen.get(name) != value:
                raise StoryFailed(part, step, f"{name} {value!r}", seen)

    def _title(self, text: str) -> None:
        console.print(f"\n  [bold]{text}[/]")
        self._begun = time.monotonic()

    def _tell(self, part: str, what: str, outcome: str) -> None:
        spent = seconds(time.monotonic() - self._begun)
        console.print(
            f"  [green]✓[/] [dim]{spent:>7}[/]  [bold]{part:<13}[/] {escape(what)}: {escape(outcome)}"
        )
        self._begun = time.monotonic()


def _is_settled(order: Body) -> bool:
    return bool(order["status"] != "pending")


def _is_sent(page: Body) -> bool:
    return any(letter["status"] == "sent" for letter in page["items"])
