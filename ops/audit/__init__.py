"""The audit: whether the nine invariants hold, on a running Chorus, without stopping it.

`audit(urls)` is for programs, `chorus audit` for people and alarms. Each rule is stated once:

- in SQL, where databases can decide it over millions of rows: `ledger`, `services`, `delivery`, each rule a `Check` of
  one database or a `Comparison` of two (`rules`, `digests`);
- in Python, where it is about few values: signing keys, leftovers, counts (`services`, `delivery`).

`auditor` evaluates them, again until nothing is found or time is up; `report` has the result.
"""

from ops.audit.access import Urls
from ops.audit.auditor import audit
from ops.audit.databases import DatabaseUnavailableError
from ops.audit.report import Report

__all__ = ["DatabaseUnavailableError", "Report", "Urls", "audit"]
