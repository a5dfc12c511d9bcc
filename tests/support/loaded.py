"""What the process that services are forked from has loaded, so that none of them does."""

import gc
import importlib
from typing import Final

from apps import SERVICES

LATE: Final = (
    "anyio._backends._asyncio",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
"""What is loaded by name once a service runs."""

for _name in ("tests.support.forked", *(f"apps.{service}.main" for service in SERVICES), *LATE):
    importlib.import_module(_name)

# A service looks at everything once before it begins, to have it out of the collector's way: at what is new, that is.
gc.collect()
gc.freeze()
