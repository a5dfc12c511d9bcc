"""The HTTP API of notifications: lists, single notifications, and operators' messages, on real servers."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from events.users import UserRegistered
from tests.support.builders import a_user, an_order, payment_refunded, payment_succeeded
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.notified import Body, a_recipient, all_sent, listed


async def test_notifications_are_listed_newest_first_in_pages_and_filtered(
    notifications: RunningService,
) -> None:
    ada = await a_recipient(notifications)
    orders = [an_order(user=ada) for _ in range(3)]
    for order in orders:
        await notifications.processes(payment_succeeded(order))
    await notifications.processes(payment_refunded(orders[0]))
    everything = await all_sent(notifications, ada, 4)
    ids = [item["notificationId"] for item in everything]
    assert ids == sorted(ids, reverse=True)
    async with notifications.http(ada) as http:
        first = (await http.get("/notification", params={"limit": 3})).json()
        rest = await http.get("/notification", params={"limit": 3, "cursor": first["nextCursor"]})
        one = await http.get(f"/notification/{ids[0]}")
    assert first["items"] + rest.json()["items"] == everything
    assert rest.json()["nextCursor"] is None
    assert one.json() == everything[0]
    refunds = await listed(notifications, ada, kind="refund", status="sent")
    assert [item["orderId"] for item in refunds] == [str(orders[0].id)]
    assert len(await listed(notifications, ada, orderId=str(orders[0].id))) == 2
    assert len(await listed(notifications, ada, userId=str(ada.id))) == 4
    assert await listed(notifications, ada, status="failed") == []


async def test_only_an_operator_sees_other_users_notifications(
    notifications: RunningService,
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    await notifications.processes(payment_succeeded(order))
    [item] = await all_sent(notifications, ada, 1)
    path = f"/notification/{item['notificationId']}"
    async with notifications.http(a_user()) as eve:
        assert (await eve.get(path)).status_code == 404
        assert (await eve.get("/notification", params={"userId": str(ada.id)})).status_code == 404
        found = await eve.get("/notification", params={"orderId": str(order.id)})
        assert (found.status_code, found.json()["items"]) == (200, [])
        missing = await eve.get(f"/notification/{uuid7()}")
        assert missing.json()["title"] == (await eve.get(path)).json()["title"]
    async with notifications.as_operator() as operator:
        assert (await operator.get(path)).json() == item
        found = await operator.get("/notification", params={"userId": str(ada.id)})
        assert found.json()["items"] == [item]
        found = await operator.get("/notification", params={"orderId": str(order.id)})
        assert found.json()["items"] == [item]
    async with notifications.http() as stranger:
        for url in (path, "/notification"):
            assert (await stranger.get(url)).status_code == 401


async def test_an_operators_message_is_sent_unchanged(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, locale="ru")
    message = {"userId": str(ada.id), "subject": "Über <Ihre> Bestellung", "body": "A & B\n\n<b>!"}
    async with notifications.as_operator() as operator:
        answer = await operator.post("/notification/send", json=message)
    assert answer.status_code == 202
    assert answer.json().keys() == {"notificationId"}
    [item] = await all_sent(notifications, ada, 1)
    assert answer.headers["Location"] == f"/notification/{item['notificationId']}"
    assert (item["kind"], item["orderId"]) == ("message", None)
    [e_mail] = await mail.gets(ada.email)
    assert e_mail.subject == item["subject"] == message["subject"]
    assert e_mail.text.replace("\r\n", "\n").strip() == item["body"] == message["body"]
    assert "&lt;b&gt;!" in e_mail.html


async def test_an_operators_message_waits_for_a_user_who_is_not_known_yet(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user()
    message = {"userId": str(ada.id), "subject": "Welcome", "body": "Hello"}
    async with notifications.as_operator() as operator:
        assert (await operator.post("/notification/send", json=message)).status_code == 202
    [item] = await listed(notifications, ada, status="waiting")
    assert (item["to"], item["subject"], item["body"]) == (None, None, None)
    await notifications.processes(UserRegistered(user=ada))
    await all_sent(notifications, ada, 1)
    [e_mail] = await mail.gets(ada.email)
    assert e_mail.subject == "Welcome"


async def test_the_same_key_sends_one_message(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    message = {"userId": str(ada.id), "subject": "Once", "body": "Only"}
    key = {"Idempotency-Key": str(uuid7())}
    async with notifications.as_operator() as operator:
        answers = await asyncio.gather(
            *(operator.post("/notification/send", json=message, headers=key) for _ in range(20))
        )
        other = await operator.post(
            "/notification/send", json=message | {"body": "Other"}, headers=key
        )
    assert {(answer.status_code, answer.text) for answer in answers} == {(202, answers[0].text)}
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 19
    assert (other.status_code, other.json()["reason"]) == (422, "idempotency_key_reused")
    await all_sent(notifications, ada, 1)
    await mail.gets(ada.email)


async def test_only_an_operator_may_send(notifications: RunningService) -> None:
    ada = await a_recipient(notifications)
    message = {"userId": str(ada.id), "subject": "Hello", "body": "It is me"}
    async with notifications.http(ada) as http, notifications.http() as stranger:
        refused = await http.post("/notification/send", json=message)
        assert (refused.status_code, refused.json()["reason"]) == (403, "forbidden")
        assert (await stranger.post("/notification/send", json=message)).status_code == 401
    assert await listed(notifications, ada) == []


INVALID: list[dict[str, Any]] = [
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


@pytest.mark.parametrize("wrong", INVALID, ids=lambda wrong: f"{wrong!a:.40}")
async def test_an_invalid_message_is_refused_and_not_stored(
    notifications: RunningService, wrong: Body
) -> None:
    user_id = str(uuid7())
    message = {"userId": user_id, "subject": "Hello", "body": "Words"} | wrong
    async with notifications.as_operator() as operator:
        answer = await operator.post(
            "/notification/send",
            content=json.dumps(message),  # httpx refuses to encode a lone surrogate
            headers={"Content-Type": "application/json"},
        )
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    count = "SELECT count(*) FROM notifications WHERE user_id = $1"
    assert await notifications.value(count, UUID(user_id)) == 0


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=201", "limit=x", "limit=1&limit=2", "cursor=nowhere"),
        *("kind=anger", "status=lost", "userId=1", "orderId=x", "unknown=1", "to=ada%40x.test"),
    ],
)
async def test_an_invalid_query_of_notifications_is_refused(
    notifications: RunningService, query: str
) -> None:
    async with notifications.http(uuid7()) as http:
        answer = await http.get(f"/notification?{query}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["reason"] == "invalid_request"


async def test_the_metrics_of_notifications_are_exported(notifications: RunningService) -> None:
    async with notifications.http() as http:
        metrics = (await http.get("/metrics")).text
    for name in (
        'chorus_notifications_open{status="waiting"}',
        'chorus_notifications_oldest_seconds{status="pending"}',
        'chorus_notifications_attempts_total{status="sent"}',
        "chorus_smtp_seconds_count",
        "chorus_smtp_unavailable 0.0",
    ):
        assert name in metrics
