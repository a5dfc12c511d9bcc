"""What a mail server's negative reply is about: one e-mail, its address, the relay's policy, or the connection.

A reply has a code (RFC 5321, 4.2) and often an enhanced status code, class.subject.detail (RFC 3463). The subject
decides where there is one; without it the code does.
"""

import re
from typing import Final, Literal

import structlog
from aiosmtplib import SMTPResponseException
from prometheus_client import Counter

from apps.notifications.models import DeliveryResult

log = structlog.get_logger(__name__)

REFUSED_BY_POLICY = Counter(
    "chorus_smtp_refused_by_policy_total",
    "Replies of the mail server that refuse an e-mail by its policy or settings.",
)

Meaning = Literal["not now", "address", "policy", "connection"]
"""Not now: try the e-mail again later. Address: never try it again. Policy: the relay does not accept it as it is set
up or asked; it is tried again later. Connection: the reply does not concern the e-mail."""

ABOUT_THE_CONNECTION: Final = frozenset({421, 530, 534, 535, 538})
"""The server closes the connection, or requires authentication (RFC 4954)."""

ABOUT_THE_SESSION: Final = frozenset({500, 502, 503, 504, 521, 554})
"""Commands that the server does not know or expect, no mail service at all, no further reason."""

POLICY: Final = 7
ABOUT_THE_E_MAIL: Final = frozenset({1, 2, 6})
"""Subjects of an enhanced status code: the address, the mailbox, the content."""

_ENHANCED: Final = re.compile(r"5\.(\d{1,3})\.\d{1,3}(?!\S)")

_ADDRESS: Final = re.compile(r"""[^\s<>"'(),:;]*@[^\s<>"'(),:;]*""")


def meaning(code: int, text: str, *, sender_accepted: bool) -> Meaning | None:
    """The meaning of a negative reply to MAIL, or to a later command; None for a reply that is not negative.

    MAIL names the sender, the same one for all e-mails: a permanent refusal concerns all of them.
    """
    if code in ABOUT_THE_CONNECTION:
        return "connection"
    if code // 100 == 4:
        return "not now"
    if code // 100 != 5:
        return None
    if not sender_accepted:
        return "connection"
    enhanced = _ENHANCED.match(text)
    subject = int(enhanced[1]) if enhanced else 0
    if subject == POLICY or (code in ABOUT_THE_SESSION and subject not in ABOUT_THE_E_MAIL):
        return "policy"
    return "address"


def result_of(error: SMTPResponseException, *, sender_accepted: bool) -> DeliveryResult:
    """The result of a negative reply. It is raised if it concerns the connection, or breaks the protocol."""
    about = meaning(error.code, error.message, sender_accepted=sender_accepted)
    if about is None or about == "connection":
        raise error
    answer = f"{error.code} {error.message}"
    if about == "policy":
        REFUSED_BY_POLICY.inc()
        log.warning("smtp.refused_by_policy", answer=without_addresses(answer))
    return DeliveryResult("refused" if about == "address" else "deferred", answer)


def without_addresses(text: str) -> str:
    """A text of a server as it may be logged: addresses are replaced."""
    return _ADDRESS.sub("...@...", text)
