"""Named crash points: places where a process can be made to die as in a power failure.

Random kills hardly ever hit the windows that matter: between a broker's confirm and the COMMIT that deletes the row,
between a COMMIT and the ack. `CHORUS_CRASH_AT=relay.after_confirm:2@OrderPlaced` makes a process kill itself when it
reaches that point for the second time with that event. Its supervisor restarts it without the variable.

For tests only. Without the variable a point costs one comparison per batch, message or notification.
"""

import os
import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from events.contracts import language

VARIABLE: Final = "CHORUS_CRASH_AT"

POINTS: Final[Mapping[str, str]] = {
    "committer.after_begin": "a batch has a connection, and has sent nothing",
    "inbox.after_mark_processed": "a batch is processed and holds its locks, and its last statement is not sent",
    "committer.before_commit": "a batch is processed, and nothing of it is durable",
    "committer.after_commit": "a batch is durable, as if the reply to COMMIT had been lost",
    "committer.between_halves": "one half of a failed batch is durable, the other is not processed",
    "relay.before_publish": "rows are taken, and nothing is published",
    "publisher.after_publish": "the broker has confirmed a message, and the publisher has not read the confirm",
    "relay.after_confirm": "every confirm has been read, and no outcome is recorded",
    "relay.before_commit": "the outcome of each row is recorded, and not durable",
    "relay.after_commit": "the deletion of the rows is durable",
    "journal_relay.before_publish": "rows are taken, and nothing is published to the journal",
    "journal_relay.after_confirm": "every confirm of the journal has been read, and no outcome is recorded",
    "journal_relay.before_commit": "the deletion of the rows is sent, and not durable",
    "journal_relay.after_commit": "the deletion of the rows is durable, and the journal has them",
    "inbox.on_receive": "a message is received, and nothing has been done with it",
    "inbox.before_ack": "all effects of a message are durable, and it is not acknowledged",
    "inbox.after_ack": "the ack of a message is sent",
    "dead_letters.after_publish": "a message is dead-lettered, and the original is not acknowledged",
    "dispatcher.before_send": "a notification is taken, and nothing is sent to the mail server",
    "dispatcher.after_accept": "the mail server has accepted an e-mail, and that is not recorded",
    "dispatcher.after_record": "the reply of the mail server is recorded",
}
"""Where a process can die, and what is true at that moment."""

_FORM: Final = re.compile(r"(?P<point>[a-z._]+)(:(?P<nth>[1-9][0-9]*))?(@(?P<only>\w+))?")


@dataclass(slots=True)
class Crash:
    """A crash to come: at a point, the last of so many times that it is reached."""

    point: str
    times: int = 1
    only: str | None = None
    """An event's type, or at the dispatcher a notification's kind; others are not counted."""

    @classmethod
    def of(cls, text: str) -> "Crash":
        """Parse `<point>[:<nth>][@<only>]`. Raises LookupError for an unknown point or event.

        At the dispatcher's points `only` is a kind of notification, which the chassis does not know: any word but an
        event.
        """
        form = _FORM.fullmatch(text)
        if form is None or form["point"] not in POINTS:
            raise LookupError(
                f"{VARIABLE}={text}: not <point>[:<nth>][@<event>] with a point of {', '.join(POINTS)}"
            )
        events = {kind.__name__ for kind in language().values()}
        if form["only"] and (form["only"] in events) == form["point"].startswith("dispatcher."):
            raise LookupError(f"{VARIABLE}={text}: {form['only']} never comes to this point")
        return cls(form["point"], int(form["nth"] or 1), form["only"])

    def is_due(self, point: str, about: Iterable[str]) -> bool:
        """Whether to crash now that this point is reached with events of these types."""
        if point != self.point or (self.only is not None and self.only not in about):
            return False
        self.times -= 1
        return self.times == 0


_crash: Final = Crash.of(text) if (text := os.environ.get(VARIABLE)) else None

ARMED: Final = _crash is not None
"""Whether this process is to crash at some point; checked before each call of `reached`, which then costs nothing."""


def reached(point: str, about: Iterable[str]) -> None:
    """Crash here, if this point is due; `about` are the types of the events being processed."""
    if _crash is not None and _crash.is_due(point, about):
        os.write(2, f"crash.reached point={point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
