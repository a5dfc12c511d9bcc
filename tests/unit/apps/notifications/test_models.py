"""The rules on notifications: rendering and addressing, results of attempts, delays."""

from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from apps.notifications.channels.mail_server import LONGEST_PAUSE, pause
from apps.notifications.models import (
    ATTEMPTS,
    FIRST_DELAY,
    LONGEST_DELAY,
    DeliveryResult,
    Notification,
    Recipient,
    delay,
)
from events.base import Causation
from events.notifications import NotificationFailed, NotificationKind, NotificationSent
from events.users import Locale
from tests.support.builders import now

NOW = now()
USER = UUID("0193af00-0000-7000-8000-000000000001")
CAUSE = Causation("flow-1", uuid7(), "00-1-2-01")


def a_recipient(locale: Locale = "en") -> Recipient:
    return Recipient(id=USER, email="ada@x.test", name="Ada", locale=locale, version=1)


def a_notification() -> Notification:
    return Notification(
        id=uuid7(),
        user_id=USER,
        order_id=uuid7(),
        kind="joy",
        amount=3000,
        balance=7000,
        currency="EUR",
        created_at=NOW,
        **CAUSE._asdict(),
    )


def a_message() -> Notification:
    content = {"kind": "message", "subject": "Hello", "body": "Words"}
    return Notification(id=uuid7(), user_id=USER, created_at=NOW, **content, **CAUSE._asdict())


def a_pending_notification() -> Notification:
    notification = a_notification()
    notification.render_for(a_recipient(), NOW)
    return notification


@pytest.mark.parametrize("notification", [a_notification(), a_message()], ids=["joy", "message"])
def test_a_waiting_notification_shows_no_address_subject_or_body(
    notification: Notification,
) -> None:
    state = notification.state()
    assert (state.status, state.to, state.subject, state.body) == ("waiting", None, None, None)
    assert notification.due_at is None


def test_a_notification_is_rendered_in_its_recipients_language() -> None:
    notification = a_notification()
    notification.render_for(a_recipient("ru"), NOW)
    state = notification.state()
    assert (state.status, state.to) == ("pending", "ada@x.test")
    assert state.subject == "Ваш заказ оплачен: 30,00 EUR"
    assert state.body is not None
    assert "Здравствуйте, Ada!" in state.body
    assert notification.due_at == NOW


def test_a_message_keeps_its_subject_and_body_in_every_language() -> None:
    notification = a_message()
    notification.render_for(a_recipient("ru"), NOW)
    assert (notification.state().subject, notification.state().body) == ("Hello", "Words")


def a_notification_of(kind: NotificationKind, decided_at: datetime) -> Notification:
    notification = a_notification()
    notification.kind, notification.decided_at = kind, decided_at
    return notification


def test_a_correction_contains_what_holds_and_says_that_the_last_one_was_wrong() -> None:
    for locale in ("en", "ru"):
        plain, correction = a_notification(), a_notification()
        correction.correction, correction.order_id = 1, plain.order_id
        for notification in (plain, correction):
            notification.render_for(a_recipient(locale), NOW)
        before, after = plain.state(), correction.state()
        assert before.subject is not None
        assert after.subject is not None
        assert after.subject in (f"Correction: {before.subject}", f"Исправление: {before.subject}")
        assert after.body is not None
        assert before.body is not None
        assert after.body.startswith(("Our earlier e-mail", "Наше прежнее письмо"))
        assert before.body.strip() in after.body


@given(times=st.permutations(range(6)), first=st.booleans(), repeated=st.booleans())
def test_the_last_notification_tells_the_latest_decision_in_whatever_order_they_arrive(
    times: list[int], first: bool, repeated: bool
) -> None:
    written: list[Notification] = []
    for time in times:
        kind: NotificationKind = "joy" if (time % 2 == 0) == first else "sorrow"
        for _ in range(1 + repeated):
            notification = a_notification_of(kind, NOW + timedelta(hours=time))
            if notification.follow(written) in ("new", "correction"):
                written.append(notification)
    assert written[-1].kind == ("sorrow" if first else "joy")
    assert [n.correction for n in written] == list(range(len(written)))
    kinds = [n.kind for n in written]
    assert all(one != other for one, other in pairwise(kinds)), "each corrects the last"


@pytest.mark.parametrize("refunded_first", [False, True])
def test_a_refund_belongs_to_the_joy_of_its_payment(refunded_first: bool) -> None:
    sorrow = a_notification_of("sorrow", NOW)
    joy, refund = (a_notification_of(kind, NOW + timedelta(hours=1)) for kind in ("joy", "refund"))
    written = [sorrow]
    for notification in (refund, joy) if refunded_first else (joy, refund):
        assert notification.follow(written) in ("new", "correction")
        written.append(notification)
    assert (joy.correction, refund.correction) == (1, 1)
    assert a_notification_of("refund", NOW + timedelta(hours=1)).follow(written) == "known"
    assert a_notification_of("refund", NOW - timedelta(hours=1)).follow(written) == "outdated"


def test_an_accepted_notification_is_sent_and_published() -> None:
    notification = a_pending_notification()
    event = notification.record(DeliveryResult("accepted", "250 OK queued"), NOW, 0.5)
    assert (notification.status, notification.sent_at, notification.due_at) == ("sent", NOW, None)
    assert event == NotificationSent(notification=notification.state())
    assert notification.causation() == CAUSE


def test_a_refusal_fails_the_notification_and_is_its_reason() -> None:
    notification = a_pending_notification()
    event = notification.record(DeliveryResult("refused", "550 no such\nmailbox"), NOW, 0.5)
    assert (notification.status, notification.sent_at, notification.due_at) == (
        "failed",
        None,
        None,
    )
    assert isinstance(event, NotificationFailed)
    assert event.reason == "550 no such mailbox"
    assert event.notification.status == "failed"


def test_a_deferred_notification_waits_longer_each_time() -> None:
    notification, delays = a_pending_notification(), []
    for _ in range(12):
        assert notification.record(DeliveryResult("deferred", "451 later"), NOW, 1.0) is None
        assert notification.status == "pending"
        assert notification.due_at is not None
        delays.append(notification.due_at - NOW)
    assert delays[0] == FIRST_DELAY
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY


def test_a_notification_that_is_deferred_for_days_fails() -> None:
    notification, waited = a_pending_notification(), timedelta()
    while notification.status == "pending":
        notification.record(DeliveryResult("deferred", "451 later"), NOW, 0.5)
        waited += (notification.due_at or NOW) - NOW
    assert notification.attempts == ATTEMPTS
    assert notification.status == "failed"
    assert timedelta(days=2.5) < waited < timedelta(days=3.5)


def test_a_stored_answer_is_printable_and_short() -> None:
    notification = a_pending_notification()
    answer = "550 no\r\n\0\x1b[31m \udcff" + "x" * 10_000
    notification.record(DeliveryResult("refused", answer), NOW, 0.5)
    assert notification.answer is not None
    assert notification.answer.isprintable()
    assert len(notification.answer) <= 500
    notification.answer.encode()


@given(attempts=st.integers(1, 100_000), jitter=st.floats(0, 1))
def test_jitter_takes_at_most_half_of_a_delay(attempts: int, jitter: float) -> None:
    assert delay(attempts, 1) / 2 <= delay(attempts, jitter) <= delay(attempts, 1)
    assert FIRST_DELAY / 2 <= delay(attempts, jitter) <= LONGEST_DELAY


@given(failures=st.integers(1, 100_000), jitter=st.floats(0, 1))
def test_attempts_to_connect_are_seconds_apart(failures: int, jitter: float) -> None:
    assert 0.1 <= pause(failures, jitter) <= LONGEST_PAUSE
