"""Events for letters: what matters is called over HTTP, and the rest is told by thin events on RabbitMQ.

Who builds so: teams that had everything over HTTP and wanted mail out of the way of orders. The event says that
something has happened, and to what (an order's id and its outcome); who wants to know more, asks. It is published
right after COMMIT, and its confirm is awaited. There is no outbox: the event is "only" for mail.

    users -> billing          registration opens the account
    orders -> billing         an order is charged
    orders ~> notifications   OrderSettled {orderId, outcome}, by RabbitMQ
    notifications -> orders   for the order
    notifications -> billing  for the payment, and the balance that the letter tells
    notifications -> users    for the address, which is then remembered for a minute

It is built as well as that can be: the client, the statements and the pools of `http_only`, a quorum queue, a hundred
messages in flight, and what a letter needs is asked for side by side.

What it gives up:

- **Availability of orders**, as `http_only` does: with billing away an order stays pending, and the customer gets 503.
- **The letters of a crash.** Between COMMIT and confirm nothing remembers the event: if orders dies there, or the
  broker is away for longer than five seconds, the order is paid and its letter is never written.
- **Calm.** Each event causes calls back to the services that had everything in hand when they told of it. Mail is out
  of the way of orders, but not of their load. While one of them is away, letters wait, with their messages in hand.
"""
