"""Customers with money on their accounts, created over the public HTTP API."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any, Final

import httpx

from bench.client import post
from bench.processes import Processes

PASSWORD: Final = "correct horse battery"  # noqa: S105 - of temporary customers
DEPOSIT: Final = "1000000000.00"
PRICE: Final = "1.00"
TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Customer:
    """A user with a token."""

    id: str
    email: str
    token: str

    def order(self, price: str = PRICE) -> bytes:
        """The bytes of a request that places an order."""
        return post("/order/create", {"totalPrice": price}, self.token)


ANONYMOUS: Final = Customer("", "", "")
"""For a contestant without users."""


async def make_customers(processes: Processes, count: int) -> list[Customer]:
    """Register so many customers, log them in, and deposit money. Raises httpx.HTTPError."""
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as http:
        return await asyncio.gather(*(_make(http, processes.urls) for _ in range(count)))


async def _make(http: httpx.AsyncClient, urls: dict[str, str]) -> Customer:
    customer = await register(http, urls)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            if (await deposit(http, urls, customer)).is_success:
                return customer
            await asyncio.sleep(0.1)  # the account is not open yet


async def register(http: httpx.AsyncClient, urls: dict[str, str]) -> Customer:
    """A new customer with a token, without money. Raises httpx.HTTPError."""
    email = f"{secrets.token_hex(8)}@example.com"
    body = {"email": email, "password": PASSWORD, "name": "Ada"}
    user = await _ask(http, f"{urls['users']}/user/register", body)
    return Customer(user["userId"], email, await log_in(http, urls, email))


async def log_in(http: httpx.AsyncClient, urls: dict[str, str], email: str) -> str:
    """A new token. Raises httpx.HTTPError."""
    body = {"email": email, "password": PASSWORD}
    token: str = (await _ask(http, f"{urls['users']}/user/login", body))["accessToken"]
    return token


async def deposit(
    http: httpx.AsyncClient, urls: dict[str, str], customer: Customer
) -> httpx.Response:
    """Deposit money, if the account exists."""
    return await http.post(
        f"{urls['billing']}/account/{customer.id}/deposit",
        json={"amount": DEPOSIT},
        headers={"Authorization": f"Bearer {customer.token}"},
    )


async def _ask(http: httpx.AsyncClient, url: str, body: dict[str, str]) -> Any:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            answer = await http.post(url, json=body)
            if answer.status_code != 503:
                answer.raise_for_status()
                return answer.json()
            await asyncio.sleep(0.2)  # too many passwords are being hashed
