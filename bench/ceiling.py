"""The ceiling: FastAPI with one trivial POST, in one process. `python -m bench.ceiling orders --port N`.

It validates an order and responds. It stores and publishes nothing, so no service that does, with the same web server
and framework, can be faster.
"""

import argparse
from decimal import Decimal
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from uuid_utils.compat import uuid7

from ops.serve import Server

app = FastAPI(openapi_url=None)


class Message(BaseModel):
    """JSON in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class OrderBody(Message):
    """The request."""

    total_price: Decimal


class OrderView(Message):
    """The response."""

    order_id: UUID
    total_price: Decimal


@app.post("/order/create", status_code=201)
async def create_order(body: OrderBody) -> OrderView:
    """Validate an order, and respond."""
    return OrderView(order_id=uuid7(), total_price=body.total_price)


@app.get("/ready")
async def ready() -> bool:
    """It has nothing to wait for."""
    return True


def main() -> None:
    """Serve until SIGTERM, with the web server and the settings of Chorus' services."""
    parser = argparse.ArgumentParser("python -m bench.ceiling")
    parser.add_argument("service", choices=["orders"])
    parser.add_argument("--port", type=int, required=True)
    config = uvicorn.Config(
        app,
        port=parser.parse_args().port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
    )
    Server(config).run()


if __name__ == "__main__":
    main()
