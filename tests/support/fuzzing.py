"""A hook of schemathesis, which finds this module by the environment variable SCHEMATHESIS_HOOKS.

The sound requests that it makes up are independent of each other, so each gets an Idempotency-Key of its own;
otherwise the second one with a key would rightly be refused. JSON Schema can demand two decimal places of a number by
`multipleOf` only, which validators get wrong.
"""

from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis.generation import GenerationMode


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Give each sound request a key of its own, and its amounts two decimal places, which no schema can demand."""
    sound = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if sound and case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())
    if sound and isinstance(case.body, dict):
        case.body = {name: _in_cents(value) for name, value in case.body.items()}


def _in_cents(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value
