"""What notifications promises of letters, on a real database, a real broker and a real SMTP server."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, TypeVar
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from apps.notifications import use_cases
from events.base import Cause, Event, Heard
from events.billing import PaymentSucceeded
from events.bus.transaction import begin
from events.notifications import NotificationSent
from events.users import UserRegistered, UserState, UserUpdated
from tests.support.builders import (
    a_user,
    an_order,
    now,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
    told,
)
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.mail import MailSink

Body = dict[str, Any]
E = TypeVar("E", bound=Event)

FIELDS = {
    "notificationId",
    "userId",
    "orderId",
    "kind",
    "to",
    "subject",
    "body",
    "status",
    "createdAt",
    "sentAt",
}


async def a_recipient(notifications: RunningService, **about: Any) -> UserState:
    user = a_user(**about)
    await notifications.hears(UserRegistered(user=user))
    return user


async def listed(
    notifications: RunningService, user: UserState | UUID, **filters: Any
) -> list[Body]:
    """A user's letters as he sees them, newest first."""
    async with notifications.http(user) as http:
        answer = await http.get("/notification", params=filters)
    assert answer.status_code == 200, answer.text
    items: list[Body] = answer.json()["items"]
    return items


async def all_sent(notifications: RunningService, user: UserState, count: int) -> list[Body]:
    """Wait until a user has so many letters, all sent and told of."""

    async def sent() -> list[Body]:
        items = await listed(notifications, user)
        assert [item["status"] for item in items] == ["sent"] * count, items
        return items

    items = await eventually(sent)
    await notifications.is_quiet()
    return items


async def test_a_paid_order_makes_one_letter_of_joy_which_is_sent_and_told_of(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, name="Ada")
    order = an_order(user=ada, total="30.00")
    [row] = await notifications.hears(told(payment_succeeded(order), correlation_id="flow-joy"))
    [letter] = await all_sent(notifications, ada, 1)
    assert letter.keys() == FIELDS
    assert (letter["kind"], letter["orderId"], letter["to"]) == ("joy", str(order.id), ada.email)
    assert letter["subject"] == "Your order is paid: 30.00 EUR"
    [arrived] = await mail.gets(ada.email)
    assert (arrived.subject, arrived.recipients) == (letter["subject"], [ada.email])
    assert arrived.text.replace("\r\n", "\n").strip() == letter["body"]
    assert str(order.id) in arrived.html
    assert arrived.message["Message-ID"] == f"<{letter['notificationId']}@chorus.test>"
    [heard] = [one for one in notifications.tap.heard if isinstance(one.event, NotificationSent)]
    assert (heard.cause.correlation_id, heard.cause.causation_id) == ("flow-joy", row.id)
    assert isinstance(heard.event, NotificationSent)
    assert str(heard.event.notification.id) == letter["notificationId"]
    assert heard.event.notification.status == "sent"


async def test_each_outcome_has_its_letter(notifications: RunningService, mail: MailSink) -> None:
    ada = await a_recipient(notifications)
    poor, late, paid = (an_order(user=ada, total="30.00") for _ in range(3))
    await notifications.hears(
        payment_rejected(poor, balance="1.00"),
        payment_rejected(late, reason="order_cancelled"),
        payment_succeeded(paid),
        payment_refunded(paid),
    )
    letters = await all_sent(notifications, ada, 4)
    assert {(letter["orderId"], letter["kind"], letter["subject"]) for letter in letters} == {
        (str(poor.id), "sorrow", "Your order could not be paid: 30.00 EUR"),
        (str(late.id), "sorrow", "Your order was cancelled and not charged: 30.00 EUR"),
        (str(paid.id), "joy", "Your order is paid: 30.00 EUR"),
        (str(paid.id), "refund", "Your money is back: 30.00 EUR"),
    }
    await mail.gets(ada.email, 4)


async def test_however_often_it_is_told_there_is_one_letter_per_order_and_kind(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    orders = [an_order(user=ada) for _ in range(20)]
    paid = [told(payment_succeeded(order)) for order in orders]
    again = [told(payment_succeeded(order)) for order in orders]  # the same facts, other ids
    await asyncio.gather(
        notifications.hears(*paid, *reversed(again), as_pack=True),
        *(notifications.hears(*reversed(paid)) for _ in range(3)),
    )
    await all_sent(notifications, ada, 20)
    await mail.gets(ada.email, 20)
    assert len(notifications.said_of(NotificationSent)) == 20


async def test_letters_are_in_the_recipients_language(
    notifications: RunningService, mail: MailSink
) -> None:
    sofja = await a_recipient(notifications, name="Софья", locale="ru")
    await notifications.hears(payment_succeeded(an_order(user=sofja)))
    [arrived] = await mail.gets(sofja.email)
    assert arrived.subject == "Ваш заказ оплачен: 30,00 EUR"
    assert "Здравствуйте, Софья!" in arrived.text
    assert "Здравствуйте, Софья!" in arrived.html
    await all_sent(notifications, sofja, 1)


async def test_a_change_of_profile_reaches_the_next_letter_and_an_old_one_changes_nothing(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, name="Ada")
    await notifications.hears(payment_succeeded(an_order(user=ada)))
    await all_sent(notifications, ada, 1)
    newest = a_user(id=ada.id, name="Ada King", email=f"new-{ada.email}", version=3)
    stale = a_user(id=ada.id, name="Ada Byron", version=2)
    await notifications.hears(UserUpdated(user=newest))
    await notifications.hears(UserUpdated(user=stale), UserRegistered(user=ada))
    await notifications.hears(payment_succeeded(an_order(user=ada)))
    await all_sent(notifications, ada, 2)
    [arrived] = await mail.gets(newest.email)
    assert "Hello Ada King," in arrived.text


async def test_a_letter_on_its_way_keeps_the_address_that_is_listed(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    with mail.saying("451 later", to=ada.email):
        await notifications.hears(payment_succeeded(an_order(user=ada)))
        await eventually(lambda: _asked(mail, ada.email))
        newer = a_user(id=ada.id, email=f"new-{ada.email}", version=2)
        await notifications.hears(UserUpdated(user=newer))
    [letter] = await all_sent(notifications, ada, 1)
    assert letter["to"] == ada.email
    await mail.gets(ada.email)
    assert mail.to(newer.email) == []


async def _asked(mail: MailSink, address: str) -> bool:
    return mail.asked[address] > 0


async def test_a_name_that_tries_to_be_more_is_a_name(
    notifications: RunningService, mail: MailSink
) -> None:
    name = "Ada\r\nBcc: eve@example.org\r\n\r\n<script>alert(1)</script>"
    ada = await a_recipient(notifications, name=name)
    await notifications.hears(payment_succeeded(an_order(user=ada)))
    [arrived] = await mail.gets(ada.email)
    assert arrived.recipients == [ada.email]
    assert "Bcc" not in arrived.message
    assert "Hello Ada Bcc: eve@example.org <script>alert(1)</script>," in arrived.text
    assert "<script>" not in arrived.html
    await all_sent(notifications, ada, 1)


async def test_an_address_that_is_none_fails_with_a_reason_and_asks_no_server(
    notifications: RunningService, mail: MailSink
) -> None:
    eve = await a_recipient(notifications, email="eve@example.org>,<ada@example.org")
    await notifications.hears(payment_succeeded(an_order(user=eve)))
    [failed] = await notifications.says(1)
    assert failed.model_dump()["reason"] == "553 this is not an address that mail can be sent to"
    [letter] = await listed(notifications, eve, status="failed")
    assert letter["sentAt"] is None
    assert mail.to("ada@example.org") == []


# Letters that come before their recipient.


async def test_a_letter_waits_for_its_recipient_and_goes_out_once(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user(name="Ada")
    order = an_order(user=ada)
    await notifications.hears(payment_succeeded(order))
    [letter] = await listed(notifications, ada.id, status="waiting")
    assert (letter["to"], letter["subject"], letter["body"]) == (None, None, None)
    await notifications.hears(UserRegistered(user=ada))
    [sent] = await all_sent(notifications, ada, 1)
    assert sent["notificationId"] == letter["notificationId"]
    assert (sent["to"], sent["subject"]) == (ada.email, "Your order is paid: 30.00 EUR")
    await notifications.hears(UserUpdated(user=a_user(id=ada.id, version=2)))
    await mail.gets(ada.email)


async def test_an_update_that_overtakes_the_registration_releases_letters_as_well(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user()
    await notifications.hears(*(payment_succeeded(an_order(user=ada)) for _ in range(3)))
    newer = a_user(id=ada.id, email=f"new-{ada.email}", version=2)
    await notifications.hears(UserUpdated(user=newer))
    await notifications.hears(UserRegistered(user=ada))
    await all_sent(notifications, ada, 3)
    await mail.gets(newer.email, 3)


def heard(event: E) -> Heard[E]:
    return Heard(uuid7(), event, now(), Cause("flow-race"))


async def _write(notifications: RunningService, events: Sequence[PaymentSucceeded]) -> None:
    async with begin(notifications.service.database.pool) as tx:
        await use_cases.write_joy(tx, [heard(event) for event in events])


async def _remember(notifications: RunningService, *users: UserState) -> None:
    async with begin(notifications.service.database.pool) as tx:
        await use_cases.remember_recipients(
            tx, [heard(UserRegistered(user=user)) for user in users]
        )


async def test_a_recipient_who_becomes_known_while_a_letter_is_written_gets_it(
    notifications: RunningService,
) -> None:
    ada = a_user()
    async with begin(notifications.service.database.pool) as tx:
        paid = payment_succeeded(an_order(user=ada))
        await use_cases.write_joy(tx, [heard(paid)])
        remembering = asyncio.create_task(_remember(notifications, ada))
        done, _ = await asyncio.wait([remembering], timeout=0.3)
        assert not done, "it must wait for the letter's commit, or it would not see it"
    await remembering
    await all_sent(notifications, ada, 1)


async def test_a_letter_that_is_written_while_its_recipient_becomes_known_reaches_him(
    notifications: RunningService,
) -> None:
    ada = a_user()
    async with begin(notifications.service.database.pool) as tx:
        await use_cases.remember_recipients(tx, [heard(UserRegistered(user=ada))])
        paid = payment_succeeded(an_order(user=ada))
        writing = asyncio.create_task(_write(notifications, [paid]))
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done, "it must wait for the recipient's commit, or it would not see him"
    await writing
    await all_sent(notifications, ada, 1)


async def test_letters_and_recipients_that_come_at_once_in_any_order_never_miss_each_other(
    notifications: RunningService,
) -> None:
    users = [a_user() for _ in range(40)]
    paid = [payment_succeeded(an_order(user=user)) for user in users]
    await asyncio.gather(
        *(_write(notifications, paid[n::4]) for n in range(4)),
        *(_remember(notifications, *users[::-1][n::4]) for n in range(4)),
    )
    sent = "SELECT count(*) FROM letters WHERE user_id = ANY($1) AND status = 'sent'"

    async def all_arrived() -> None:
        assert await notifications.value(sent, [user.id for user in users]) == 40

    await eventually(all_arrived)
    await notifications.is_quiet()


# The HTTP door.


async def test_letters_are_listed_newest_first_page_by_page_and_filtered(
    notifications: RunningService,
) -> None:
    ada = await a_recipient(notifications)
    orders = [an_order(user=ada) for _ in range(3)]
    for order in orders:
        await notifications.hears(payment_succeeded(order))
    await notifications.hears(payment_refunded(orders[0]))
    everything = await all_sent(notifications, ada, 4)
    ids = [letter["notificationId"] for letter in everything]
    assert ids == sorted(ids, reverse=True)
    async with notifications.http(ada) as http:
        first = (await http.get("/notification", params={"limit": 3})).json()
        rest = await http.get("/notification", params={"limit": 3, "cursor": first["nextCursor"]})
        one = await http.get(f"/notification/{ids[0]}")
    assert first["items"] + rest.json()["items"] == everything
    assert rest.json()["nextCursor"] is None
    assert one.json() == everything[0]
    refunds = await listed(notifications, ada, kind="refund", status="sent")
    assert [letter["orderId"] for letter in refunds] == [str(orders[0].id)]
    assert len(await listed(notifications, ada, orderId=str(orders[0].id))) == 2
    assert len(await listed(notifications, ada, userId=str(ada.id))) == 4
    assert await listed(notifications, ada, status="failed") == []


async def test_nobody_sees_other_peoples_letters_but_an_operator(
    notifications: RunningService,
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    await notifications.hears(payment_succeeded(order))
    [letter] = await all_sent(notifications, ada, 1)
    path = f"/notification/{letter['notificationId']}"
    async with notifications.http(a_user()) as eve:
        assert (await eve.get(path)).status_code == 404
        assert (await eve.get("/notification", params={"userId": str(ada.id)})).status_code == 404
        found = await eve.get("/notification", params={"orderId": str(order.id)})
        assert (found.status_code, found.json()["items"]) == (200, [])
        missing = await eve.get(f"/notification/{uuid7()}")
        assert missing.json()["title"] == (await eve.get(path)).json()["title"]
    async with notifications.as_operator() as operator:
        assert (await operator.get(path)).json() == letter
        found = await operator.get("/notification", params={"userId": str(ada.id)})
        assert found.json()["items"] == [letter]
        found = await operator.get("/notification", params={"orderId": str(order.id)})
        assert found.json()["items"] == [letter]
    async with notifications.http() as stranger:
        for url in (path, "/notification"):
            assert (await stranger.get(url)).status_code == 401


async def test_an_operators_words_reach_a_user_as_they_are(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, locale="ru")
    words = {"userId": str(ada.id), "subject": "Über <Ihre> Bestellung", "body": "A & B\n\n<b>!"}
    async with notifications.as_operator() as operator:
        answer = await operator.post("/notification/send", json=words)
    assert answer.status_code == 202
    assert answer.json().keys() == {"notificationId"}
    [letter] = await all_sent(notifications, ada, 1)
    assert answer.headers["Location"] == f"/notification/{letter['notificationId']}"
    assert (letter["kind"], letter["orderId"]) == ("message", None)
    [arrived] = await mail.gets(ada.email)
    assert arrived.subject == letter["subject"] == words["subject"]
    assert arrived.text.replace("\r\n", "\n").strip() == letter["body"] == words["body"]
    assert "&lt;b&gt;!" in arrived.html


async def test_an_operators_letter_waits_for_a_user_who_is_not_known_yet(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user()
    words = {"userId": str(ada.id), "subject": "Welcome", "body": "Hello"}
    async with notifications.as_operator() as operator:
        assert (await operator.post("/notification/send", json=words)).status_code == 202
    [letter] = await listed(notifications, ada, status="waiting")
    assert (letter["to"], letter["subject"], letter["body"]) == (None, None, None)
    await notifications.hears(UserRegistered(user=ada))
    await all_sent(notifications, ada, 1)
    [arrived] = await mail.gets(ada.email)
    assert arrived.subject == "Welcome"


async def test_the_same_key_sends_one_letter(notifications: RunningService, mail: MailSink) -> None:
    ada = await a_recipient(notifications)
    words = {"userId": str(ada.id), "subject": "Once", "body": "Only"}
    key = {"Idempotency-Key": str(uuid7())}
    async with notifications.as_operator() as operator:
        answers = await asyncio.gather(
            *(operator.post("/notification/send", json=words, headers=key) for _ in range(20))
        )
        other = await operator.post(
            "/notification/send", json=words | {"body": "Other"}, headers=key
        )
    assert {(answer.status_code, answer.text) for answer in answers} == {(202, answers[0].text)}
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 19
    assert (other.status_code, other.json()["reason"]) == (422, "idempotency_key_reused")
    await all_sent(notifications, ada, 1)
    await mail.gets(ada.email)


async def test_only_an_operator_may_send(notifications: RunningService) -> None:
    ada = await a_recipient(notifications)
    words = {"userId": str(ada.id), "subject": "Hello", "body": "It is me"}
    async with notifications.http(ada) as http, notifications.http() as stranger:
        refused = await http.post("/notification/send", json=words)
        assert (refused.status_code, refused.json()["reason"]) == (403, "forbidden")
        assert (await stranger.post("/notification/send", json=words)).status_code == 401
    assert await listed(notifications, ada) == []


BAD_WORDS: list[dict[str, Any]] = [
    {"subject": ""},
    {"subject": "x" * 201},
    {"subject": "Hello\r\nBcc: eve@example.org"},
    {"subject": "Hello\nworld"},
    {"subject": "Hello\u2028world"},
    {"subject": "Hello\x00"},
    {"subject": "Hello\ud800"},
    {"subject": None},
    {"subject": 7},
    {"body": ""},
    {"body": "x" * 10_001},
    {"body": "a\x00b"},
    {"body": "a\ud800"},
    {"body": ["x"]},
    {"userId": "nobody"},
    {"userId": None},
    {"kind": "joy"},
    {"to": "eve@example.org"},
]


@pytest.mark.parametrize("wrong", BAD_WORDS, ids=lambda wrong: f"{wrong!a:.40}")
async def test_words_that_are_none_are_refused_and_nothing_is_written(
    notifications: RunningService, wrong: Body
) -> None:
    user_id = str(uuid7())
    words = {"userId": user_id, "subject": "Hello", "body": "Words"} | wrong
    async with notifications.as_operator() as operator:
        answer = await operator.post(
            "/notification/send",
            content=json.dumps(words),  # httpx's own JSON has no half characters
            headers={"Content-Type": "application/json"},
        )
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    written = "SELECT count(*) FROM letters WHERE user_id = $1"
    assert await notifications.value(written, UUID(user_id)) == 0


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=201", "limit=x", "limit=1&limit=2", "cursor=nowhere"),
        *("kind=anger", "status=lost", "userId=1", "orderId=x", "unknown=1", "to=ada%40x.test"),
    ],
)
async def test_a_query_that_is_none_is_refused(notifications: RunningService, query: str) -> None:
    async with notifications.http(uuid7()) as http:
        answer = await http.get(f"/notification?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["reason"] == "invalid_request"


async def test_the_figures_tell_of_letters(notifications: RunningService) -> None:
    async with notifications.http() as http:
        figures = (await http.get("/metrics")).text
    for name in (
        'chorus_letters_open{status="waiting"}',
        'chorus_letters_oldest_seconds{status="pending"}',
        'chorus_letters_answered_total{status="sent"}',
        "chorus_smtp_seconds_count",
        "chorus_smtp_away 0.0",
    ):
        assert name in figures
