"""The usual event-driven build: events on RabbitMQ, an outbox, an inbox, and a transaction for each message.

This is what the books and the documentation of the frameworks show: FastStream subscribers, SQLAlchemy's AsyncSession
(`expire_on_commit=False`), an outbox table and a relay that polls it, quorum queues, publisher confirms,
acknowledgement after COMMIT.

    users ~> billing, notifications    UserRegistered
    orders ~> billing                  OrderPlaced
    billing ~> orders, notifications   PaymentSucceeded, PaymentRejected

It is correct, and gives the same guarantees about money and notifications as Chorus: an event exists if and only if its
change was committed, and has its effects once, however often it is delivered. It publishes only events that have a
consumer, which are fewer than Chorus publishes. The rules are those of Chorus' models.

**Failures**: while the database or the broker is unavailable, the message is retried and stays unacknowledged. A
message whose handler fails is returned to the queue after a second. The broker dead-letters it to `usual.dead` after
twenty deliveries.

Its disadvantage is speed: each message costs a session, a transaction, a round trip for each statement, a publish of
its own and a confirm that is awaited alone; and up to 50 ms until the relay polls again. The ORM takes most of the
processor time.
"""
