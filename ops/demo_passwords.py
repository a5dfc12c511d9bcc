"""The passwords of `compose.yaml`, which everybody knows: a start with one is refused unless it is a trial."""

import os
import re
from typing import Final

from apps import SERVICES
from chassis.runtime.settings import Settings, value

_NAMES: Final = re.compile(r"CHORUS_((DATABASE|AMQP|RABBITMQ).*_URL.*|.*_PASSWORD)")
"""Settings with a password in them."""

_LOGINS: Final = (*SERVICES, "operator", "auditor", "postgres", "admin")
_KNOWN: Final = re.compile(rf"(?:^|[:=])(?:{'|'.join(_LOGINS)})-demo(?:$|[@&,])")


def check(settings: Settings) -> None:
    """Raise LookupError with the settings that have such a password, if `allow_demo_passwords` is off."""
    if settings.allow_demo_passwords:
        return
    names = {name.removesuffix("_FILE") for name in os.environ}
    known = [n for n in sorted(names) if _NAMES.fullmatch(n) and _KNOWN.search(value(n) or "")]
    if known:
        raise LookupError(
            f"{', '.join(known)}: everybody knows this password, as it is compose.yaml's. Choose another, or for a"
            " trial set CHORUS_ALLOW_DEMO_PASSWORDS=true"
        )
