"""The audit: whether the invariants hold, on a running Chorus, without stopping it.

`audit(urls, history)` is for programs, `chorus audit` for people and alarms. In the order of thought:

- `facts`: what is known. `findings`: what may be said of it.
- `money`, `orders`, `letters`, `copies`, `travel`: the invariants, pure functions of facts; `invariants` lists them.
- `suspects`, with `digests`: what may be wrong, found by the databases themselves among millions of rows.
- `gathering`, with `databases` and `broker`: facts about that.
- `auditor`: looks, and looks again. `report`: what it says.
"""

from ops.audit.auditor import Urls, audit
from ops.audit.databases import CannotLook
from ops.audit.facts import Attempt, History
from ops.audit.report import Report

__all__ = ["Attempt", "CannotLook", "History", "Report", "Urls", "audit"]
