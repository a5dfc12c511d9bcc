"""The usual event-driven build: events on RabbitMQ, an outbox, an inbox, and a transaction for each message.

Who builds so: nearly everybody who builds on events in Python with care. It is what the books and the frameworks'
own pages show: FastStream subscribers, SQLAlchemy's AsyncSession (`expire_on_commit=False`), a table for events that
wait and a relay that polls it, quorum queues, manual confirms, acknowledgement after COMMIT.

    users ~> billing, notifications    UserRegistered
    orders ~> billing                  OrderPlaced
    billing ~> orders, notifications   PaymentSucceeded, PaymentRejected

It is correct, and keeps Chorus' promises about money and letters: an event exists if and only if its change was
committed, and has its effects once, however often it is delivered. It tells only what somebody hears, which is less
than Chorus tells. The rules are those of Chorus' models.

**When something fails**: a database or broker that is away is waited for, with the message in hand. A message that
fails by itself is given back after a second, and set aside in `usual.dead` by the broker after twenty deliveries.

What it gives up is speed: each message costs a session, a transaction, a round trip for each statement, a publish of
its own and a confirm that is waited for alone; and up to 50 ms at each hop before the relay looks again. The ORM costs
most of the processor's time.
"""
