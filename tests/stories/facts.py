"""Everything that the audit speaks about, taken down at rest: databases and queues, and what only a story knows."""

from typing import TYPE_CHECKING, Any

from events.orders import OrderPlaced
from ops.audit.databases import reading
from ops.audit.facts import Facts, Mail
from ops.audit.gathering import gather as gather_rows
from ops.audit.suspects import Scope

if TYPE_CHECKING:
    from tests.stories.stack import Stack

Rows = list[dict[str, Any]]


async def gather(stack: "Stack") -> Facts:
    """Take everything down, with the journal, the mail and what customers were answered. The stack must be at rest."""
    async with reading(stack.urls.databases) as databases:
        facts = await gather_rows(
            databases, Scope(), history=stack.history, queues=await stack.queues()
        )
    facts.journal = stack.journal.events()
    facts.flows = {
        received.cause.correlation_id: received.event.order.id
        for received in facts.journal
        if isinstance(received.event, OrderPlaced)
    }
    facts.mail = Mail(
        [
            (mail.notification_id, tuple(mail.recipients), mail.subject)
            for mail in stack.mail.letters
        ],
        set(stack.refused_for_good),
        stack.extra_copies,
    )
    return facts
