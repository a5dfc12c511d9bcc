"""`chorus audit`: one audit, reported to a person or a program."""

import json
import sys
from typing import Final

from chassis.runtime.logs import configure_logging
from chassis.runtime.settings import settings
from ops.audit.auditor import audit
from ops.audit.databases import DatabaseUnavailableError
from ops.audit.urls import urls_of

CLEAN, VIOLATED, UNKNOWN = 0, 1, 2
"""Exit statuses."""

EXAMPLES: Final = 5
"""Findings of each invariant that are shown."""


async def once(timeout_seconds: float, *, at_rest: bool, as_json: bool) -> int:
    """Audit and print the report. Returns the exit status."""
    configure_logging(settings(), "audit")
    try:
        report = await audit(urls_of(settings()), timeout_seconds=timeout_seconds, at_rest=at_rest)
    except DatabaseUnavailableError as error:
        print(json.dumps({"error": str(error)}) if as_json else f"chorus: {error}", file=sys.stderr)
        return UNKNOWN
    document = (
        json.dumps(report.as_json(EXAMPLES), indent=2) if as_json else report.as_text(EXAMPLES)
    )
    print(document)
    return CLEAN if report.clean else VIOLATED
