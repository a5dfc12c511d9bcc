"""What operators and viewers may do, and the audit trail of it, on real services."""

from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from events.base import ByOperator
from events.orders import OrderCancelled, OrderPlaced
from tests.support.builders import a_user, an_order, cancelled
from tests.support.harness import OPERATOR, RunningService
from tests.support.purse import got, open_with
from tests.support.registering import a_user_of, id_of
from tests.support.shopping import place

WHY = {"Operator-Reason": "Complaint 1234"}
BY = ByOperator(operator_id=OPERATOR, reason="Complaint 1234")


async def trail(service: RunningService, subject: UUID | str) -> list[tuple[object, ...]]:
    """Action, operator and reason of each row about a subject."""
    sql = "SELECT action, operator_id, reason FROM operator_actions WHERE subject = $1 ORDER BY id"
    return [tuple(row) for row in await service.rows(sql, UUID(str(subject)))]


@pytest.mark.parametrize("kind", ["deposit", "withdraw"])
async def test_money_that_an_operator_moves_names_them_everywhere(
    billing: RunningService, kind: str
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    async with billing.as_operator() as operator:
        for headers in (WHY, {}):
            body = {"amount": "10.00"}
            answer = await operator.post(f"/account/{user.id}/{kind}", json=body, headers=headers)
            assert answer.status_code == 201, answer.text
    async with billing.http(user) as ada:
        lines = (await got(ada, f"/account/{user.id}/transactions"))["items"]
    named = [(line["operatorId"], line["operatorReason"]) for line in lines]
    assert named == [(str(OPERATOR), None), (str(OPERATOR), "Complaint 1234"), (None, None)]
    kinds = {"deposit": "deposit", "withdraw": "withdrawal"}
    assert await trail(billing, lines[1]["transactionId"]) == [
        (kinds[kind], OPERATOR, WHY["Operator-Reason"])
    ]
    assert await trail(billing, lines[2]["transactionId"]) == []
    await billing.is_quiet()
    moved = [e for e in billing.published if getattr(e, "transaction", None)]
    assert [e.transaction.by_operator for e in moved][:2] == [None, BY]  # type: ignore[attr-defined]


async def test_a_refund_names_the_operator_who_has_cancelled_the_order(
    billing: RunningService,
) -> None:
    user = a_user()
    order = an_order(total="60.00", user=user)
    await open_with(billing, user, "100.00")
    await billing.processes(OrderPlaced(order=order))
    await billing.processes(OrderCancelled(order=cancelled(order), by_operator=BY))
    async with billing.http(user) as ada:
        [refund, payment, _] = (await got(ada, f"/account/{user.id}/transactions"))["items"]
    assert (refund["kind"], refund["operatorId"]) == ("refund", str(OPERATOR))
    assert refund["operatorReason"] == "Complaint 1234"
    assert payment["operatorId"] is None


async def test_the_audit_trail_can_only_grow(billing: RunningService) -> None:
    granted = (
        "SELECT string_agg(privilege_type, ' ' ORDER BY privilege_type)"
        " FROM information_schema.role_table_grants"
        " WHERE table_name = 'operator_actions' AND grantee = $1"
    )
    login = billing.installation.login("billing")
    assert await billing.value(granted, login) == "INSERT SELECT"


async def test_an_order_that_an_operator_cancels_names_them(orders: RunningService) -> None:
    order, own = await place(orders, a_user()), await place(orders, a_user())
    async with orders.as_operator() as operator:
        for _ in range(2):
            answer = await operator.post(f"/order/{order.id}/cancel", headers=WHY)
            assert answer.status_code == 200
    async with orders.http(own.user_id) as ada:
        assert (await ada.post(f"/order/{own.id}/cancel", headers=WHY)).status_code == 200
    await orders.is_quiet()
    events = {event.order.id: event.by_operator for event in orders.published_of(OrderCancelled)}
    assert events == {order.id: BY, own.id: None}
    assert await trail(orders, order.id) == [("cancel", OPERATOR, "Complaint 1234")]
    assert await trail(orders, own.id) == []


async def test_a_message_and_a_change_of_a_profile_name_the_operator(
    notifications: RunningService, users: RunningService
) -> None:
    message = {"userId": str(uuid7()), "subject": "Hello", "body": "It is on its way."}
    async with notifications.as_operator() as operator:
        answer = await operator.post("/notification/send", json=message, headers=WHY)
    assert await trail(notifications, answer.json()["notificationId"]) == [
        ("send", OPERATOR, "Complaint 1234")
    ]
    async with a_user_of(users) as ada, users.as_operator() as operator:
        changed = await operator.patch(f"/user/{id_of(ada)}", json={"name": "Ada"}, headers=WHY)
        assert changed.status_code == 200, changed.text
        assert await trail(users, id_of(ada)) == [("change", OPERATOR, "Complaint 1234")]
