"""The HTTP door of notifications: letters are listed, and an operator may write, on real servers."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from events.users import UserRegistered
from tests.support.builders import a_user, an_order, payment_refunded, payment_succeeded
from tests.support.harness import RunningService
from tests.support.letters import Body, a_recipient, all_sent, listed
from tests.support.mail import MailSink


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
    written = "SELECT count(*) FROM notifications WHERE user_id = $1"
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
        'chorus_notifications_open{status="waiting"}',
        'chorus_notifications_oldest_seconds{status="pending"}',
        'chorus_notifications_attempts_total{status="sent"}',
        "chorus_smtp_seconds_count",
        "chorus_smtp_away 0.0",
    ):
        assert name in figures
