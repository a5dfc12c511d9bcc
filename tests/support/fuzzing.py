"""A hook of schemathesis, which finds this module by the environment variable SCHEMATHESIS_HOOKS.

The sound requests that it makes up are independent of each other, so each gets an Idempotency-Key of its own;
otherwise the second one with a key would rightly be refused.
"""

from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis.generation import GenerationMode


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Give each sound request a key of its own."""
    sound = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if sound and case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())
