"""One correlation id runs through a whole flow, and causation ids name the cause of each event."""

from events.base import Envelope, Event
from tests.stories.customers import Customer
from tests.stories.stack import Stack

Tree = dict[str, str | None]


def tree(events: list[Envelope[Event]]) -> Tree:
    """Event names, each with the name of the event that caused it."""
    names = {received.id: type(received.event).__name__ for received in events}
    causes = [received.cause.causation_id for received in events]
    assert all(cause is None or cause in names for cause in causes), "a cause lies outside"
    assert len(set(names.values())) == len(events)
    caused = zip(events, causes, strict=True)
    return {names[e.id]: names[cause] if cause else None for e, cause in caused}


async def flow_of(chorus: Stack, correlation_id: str) -> list[Envelope[Event]]:
    await chorus.is_quiet()
    events = chorus.journal.flow(correlation_id)
    assert {received.cause.correlation_id for received in events} == {correlation_id}
    traces = {(received.cause.traceparent or "").split("-")[1] for received in events}
    assert len(traces) == 1
    return events


async def test_a_registration_and_what_follows_are_one_flow(chorus: Stack) -> None:
    ada = await chorus.customer()
    assert tree(await flow_of(chorus, f"{ada.flow}.1")) == {
        "UserRegistered": None,
        "AccountOpened": "UserRegistered",
    }


async def order(chorus: Stack, customer: Customer, total: str, flow: str) -> list[Envelope[Event]]:
    answer = await customer.ask_for_order(total, X_Correlation_Id=flow)
    assert answer.headers["X-Correlation-Id"] == flow
    return await flow_of(chorus, flow)


async def test_a_paid_order_and_its_notification_are_one_flow(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    assert tree(await order(chorus, ada, "30.00", f"{ada.flow}.paid")) == {
        "OrderPlaced": None,
        "PaymentSucceeded": "OrderPlaced",
        "OrderPaid": "PaymentSucceeded",
        "NotificationSent": "PaymentSucceeded",
    }


async def test_a_rejected_order_and_its_notification_are_one_flow(chorus: Stack) -> None:
    ada = await chorus.customer()
    assert tree(await order(chorus, ada, "30.00", f"{ada.flow}.refused")) == {
        "OrderPlaced": None,
        "PaymentRejected": "OrderPlaced",
        "OrderRejected": "PaymentRejected",
        "NotificationSent": "PaymentRejected",
    }


async def test_a_cancellation_its_refund_and_its_notification_are_one_flow(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    order_id = await ada.order("30.00")
    await ada.settled(order_id)
    flow = f"{ada.flow}.cancelled"
    await ada.ask("orders", "POST", f"/order/{order_id}/cancel", X_Correlation_Id=flow)
    assert tree(await flow_of(chorus, flow)) == {
        "OrderCancelled": None,
        "PaymentRefunded": "OrderCancelled",
        "NotificationSent": "PaymentRefunded",
    }


async def test_flows_in_one_message_batch_keep_their_own_ids(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    await chorus["billing"].stop()
    asked = [f"{ada.flow}.batch-{number:02}" for number in range(40)]
    for flow in asked:
        await ada.ask_for_order("1.00", X_Correlation_Id=flow)
    await chorus["billing"].start()
    await chorus.is_quiet()
    for flow in asked:
        assert tree(chorus.journal.flow(flow))["OrderPaid"] == "PaymentSucceeded"
