"""The rules on letters: how they are worded and addressed, what answers do to them, how long they rest."""

from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from apps.notifications.models import (
    ATTEMPTS,
    FIRST_DELAY,
    LONGEST_DELAY,
    Letter,
    Recipient,
    delay,
)
from apps.notifications.smtp import LONGEST_PAUSE, pause
from events.base import Causation
from events.notifications import NotificationFailed, NotificationSent
from events.users import Locale
from tests.support.builders import an_account, an_order, now

NOW = now()
USER = UUID("0193af00-0000-7000-8000-000000000001")
BECAUSE = Causation("flow-1", uuid7(), "00-1-2-01")


def a_recipient(locale: Locale = "en") -> Recipient:
    return Recipient(id=USER, email="ada@x.test", name="Ada", locale=locale, version=1)


def a_letter() -> Letter:
    order = an_order(user=USER, total="30.00")
    account = an_account(user=USER, balance="70.00")
    return Letter.about("joy", order, order.total, account, id=uuid7(), cause=BECAUSE, now=NOW)


def a_message() -> Letter:
    return Letter.message(USER, "Hello", "Words", id=uuid7(), cause=BECAUSE, now=NOW)


def a_pending_letter() -> Letter:
    letter = a_letter()
    letter.write_to(a_recipient(), NOW)
    return letter


@pytest.mark.parametrize("letter", [a_letter(), a_message()], ids=["joy", "message"])
def test_a_letter_to_nobody_known_shows_no_words_and_no_address(letter: Letter) -> None:
    state = letter.state()
    assert (state.status, state.to, state.subject, state.body) == ("waiting", None, None, None)
    assert letter.due_at is None
    assert letter.outcome() is None


def test_a_letter_is_worded_and_addressed_in_its_recipients_language() -> None:
    letter = a_letter()
    letter.write_to(a_recipient("ru"), NOW)
    state = letter.state()
    assert (state.status, state.to) == ("pending", "ada@x.test")
    assert state.subject == "Ваш заказ оплачен: 30,00 EUR"
    assert state.body is not None
    assert "Здравствуйте, Ada!" in state.body
    assert letter.due_at == NOW


def test_a_message_keeps_the_operators_words_in_every_language() -> None:
    letter = a_message()
    letter.write_to(a_recipient("ru"), NOW)
    assert (letter.state().subject, letter.state().body) == ("Hello", "Words")


def test_yes_is_the_end_and_is_told() -> None:
    letter = a_pending_letter()
    letter.answered(250, "OK queued", NOW, 0.5)
    assert (letter.status, letter.sent_at, letter.due_at) == ("sent", NOW, None)
    assert letter.outcome() == NotificationSent(notification=letter.state())
    assert letter.causation() == BECAUSE


@pytest.mark.parametrize("code", [500, 550, 554, 599])
def test_never_is_the_end_and_is_told_with_the_servers_words(code: int) -> None:
    letter = a_pending_letter()
    letter.answered(code, "no such\nmailbox", NOW, 0.5)
    assert (letter.status, letter.sent_at, letter.due_at) == ("failed", None, None)
    told = letter.outcome()
    assert isinstance(told, NotificationFailed)
    assert told.reason == f"{code} no such mailbox"
    assert told.notification.status == "failed"


@pytest.mark.parametrize("code", [0, 400, 421, 451, 499, 354])
def test_not_now_lets_the_letter_rest_longer_each_time(code: int) -> None:
    letter, rests = a_pending_letter(), []
    for _ in range(12):
        letter.answered(code, "later", NOW, 1.0)
        assert letter.status == "pending"
        assert letter.due_at is not None
        rests.append(letter.due_at - NOW)
    assert rests[0] == FIRST_DELAY
    assert rests == sorted(rests)
    assert rests[-1] == LONGEST_DELAY
    assert letter.outcome() is None


def test_a_letter_that_is_put_off_for_days_fails_in_the_end() -> None:
    letter, rested = a_pending_letter(), timedelta()
    while letter.status == "pending":
        letter.answered(451, "later", NOW, 0.5)
        rested += (letter.due_at or NOW) - NOW
    assert letter.attempts == ATTEMPTS
    assert letter.status == "failed"
    assert timedelta(days=2.5) < rested < timedelta(days=3.5)


def test_what_a_server_says_is_kept_readable_and_short() -> None:
    letter = a_pending_letter()
    letter.answered(550, "no\r\n\0\x1b[31m \udcff" + "x" * 10_000, NOW, 0.5)
    assert letter.answer is not None
    assert letter.answer.isprintable()
    assert len(letter.answer) <= 500
    letter.answer.encode()


@given(attempts=st.integers(1, 100_000), jitter=st.floats(0, 1))
def test_a_rest_is_between_half_of_its_length_and_all_of_it(attempts: int, jitter: float) -> None:
    assert delay(attempts, 1) / 2 <= delay(attempts, jitter) <= delay(attempts, 1)
    assert FIRST_DELAY / 2 <= delay(attempts, jitter) <= LONGEST_DELAY


@given(failures=st.integers(1, 100_000), jitter=st.floats(0, 1))
def test_a_server_that_is_away_is_asked_again_within_seconds_and_never_at_once(
    failures: int, jitter: float
) -> None:
    assert 0.1 <= pause(failures, jitter) <= LONGEST_PAUSE
