"""The broker's alarms: it takes nothing from publishers while its memory or its disk is short."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from tools.servers import PrivateRabbitMQ

ALARMS: Final = {
    "memory": (
        ("set_vm_memory_high_watermark", "0.00001"),
        ("set_vm_memory_high_watermark", "0.4"),
    ),
    "disk": (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")),
}
"""What raises each of them, and what ends it, by `rabbitmqctl`."""


@contextlib.asynccontextmanager
async def alarm(rabbitmq: PrivateRabbitMQ, kind: str) -> AsyncIterator[None]:
    """An alarm, in this block."""
    begin, end = ALARMS[kind]
    assert await asyncio.to_thread(rabbitmq.control, *begin) == 0
    try:
        yield
    finally:
        assert await asyncio.to_thread(rabbitmq.control, *end) == 0
