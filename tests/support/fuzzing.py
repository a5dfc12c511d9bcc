"""A hook of schemathesis, which finds this module by the environment variable SCHEMATHESIS_HOOKS.

The sound requests that it makes up are independent of each other, so each gets an Idempotency-Key of its own;
otherwise the second one with a key would rightly be refused. JSON Schema can demand two decimal places of a number by
`multipleOf` only, which validators get wrong, and cannot demand that a password is not a common one.
"""

from typing import Any
from uuid import uuid4

import schemathesis
from schemathesis.generation import GenerationMode


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Give each sound request a key of its own, and values that are fit where no schema can demand it."""
    sound = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    if sound and case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())
    if sound and isinstance(case.body, dict):
        case.body = {name: _fit(name, value) for name, value in case.body.items()}


def _fit(name: str, value: Any) -> Any:
    if name in {"password", "newPassword"} and isinstance(value, str):
        return f"{value[:90]}{uuid4()}"
    return round(value, 2) if isinstance(value, float) else value
