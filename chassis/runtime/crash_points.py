"""Named crash points: places where a process can be made to die as if the power had gone.

Kills at random hardly ever hit the windows that matter: between a broker's confirm and the COMMIT that notes it,
between a COMMIT and the ack. `CHORUS_CRASH_AT=relay.after_confirm:2@OrderPlaced` has a process kill itself when it
comes to that point for the second time with that event in hand. Whoever supervises it starts it again without the
variable.

It is for tests. Without the variable every point is one look at a constant, once for each batch, message or letter.
"""

import os
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from events.contracts import language
from events.notifications import NotificationKind

VARIABLE: Final = "CHORUS_CRASH_AT"

POINTS: Final[Mapping[str, str]] = {
    "committer.after_begin": "a batch has a connection, and nothing has been done with it",
    "inbox.after_mark_processed": "a batch is decided and locked, and its last statement is not sent",
    "committer.before_commit": "a batch is done, and nothing of it is durable",
    "committer.after_commit": "a batch is durable, as if COMMIT's answer had been lost",
    "committer.between_halves": "one half of a batch that failed is durable, the other is not done",
    "relay.before_publish": "rows are taken, and nothing is sent",
    "publisher.after_publish": "the broker has a message, and whoever published it does not know",
    "relay.after_confirm": "every confirm has come, and nothing is noted",
    "relay.before_commit": "what came of each row is noted, and not durable",
    "relay.after_commit": "the rows are gone",
    "inbox.on_receive": "a message has come, and nothing has been done about it",
    "inbox.before_ack": "everything about a message is durable, and the broker does not know",
    "inbox.after_ack": "the message's ack is on its way",
    "dead_letters.after_publish": "a message is set aside, and the original is not acknowledged",
    "dispatcher.before_send": "a notification is leased, and nothing of it is sent",
    "dispatcher.after_accept": "the mail server has accepted an e-mail, and that is not recorded",
    "dispatcher.after_record": "the result of an attempt is recorded",
}
"""Where a process can die, in the order of travel, and what is true at that moment."""

_FORM: Final = re.compile(r"(?P<point>[a-z._]+)(:(?P<nth>[1-9][0-9]*))?(@(?P<only>\w+))?")


@dataclass(slots=True)
class Crash:
    """A death to come: at a point, when it is reached for the last of so many times."""

    point: str
    times: int = 1
    only: str | None = None
    """An event's type, or at the dispatcher a notification's kind; others pass unharmed and uncounted."""

    @classmethod
    def of(cls, text: str) -> "Crash":
        """Read `<point>[:<nth>][@<only>]`. Raises LookupError for an unknown point, event or kind of notification."""
        form = _FORM.fullmatch(text)
        if form is None or form["point"] not in POINTS:
            raise LookupError(
                f"{VARIABLE}={text}: not <point>[:<nth>][@<event>] with a point of {', '.join(POINTS)}"
            )
        events = {kind.__name__ for kind in language().values()}
        known = get_args(NotificationKind) if form["point"].startswith("dispatcher.") else events
        if form["only"] and form["only"] not in known:
            raise LookupError(f"{VARIABLE}={text}: {form['only']} is none of {', '.join(known)}")
        return cls(form["point"], int(form["nth"] or 1), form["only"])

    def is_due(self, point: str, about: Iterable[str]) -> bool:
        """Whether the moment has come, now that a point has been reached with these events in hand."""
        if point != self.point or (self.only is not None and self.only not in about):
            return False
        self.times -= 1
        return self.times == 0


_crash: Final = Crash.of(text) if (text := os.environ.get(VARIABLE)) else None

ARMED: Final = _crash is not None
"""Whether this process is to die at some point: asked before `reached`, so that a point costs nothing otherwise."""


def reached(point: str, about: Iterable[str]) -> None:
    """Die here, if that is wished; `about` are the types of the events in hand."""
    if _crash is not None and _crash.is_due(point, about):
        os.write(2, f"crash.reached point={point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
