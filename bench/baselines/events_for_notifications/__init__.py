"""Events for notifications: services call each other over HTTP, and publish thin events for notifications only.

Teams choose this when everything was over HTTP and e-mails must not slow down orders. The event has only the order's id
and its outcome; its consumer requests the rest. It is published right after COMMIT, and its confirm is awaited. There
is no outbox, because the event is "only" for e-mails.

    users -> billing          registration opens the account
    orders -> billing         an order is charged
    orders ~> notifications   OrderSettled {orderId, outcome}, by RabbitMQ
    notifications -> orders   for the order
    notifications -> billing  for the payment, and the balance in the notification
    notifications -> users    for the address, which is then cached for a minute

It is optimised: it has the HTTP client, the statements and the pools of `http_only`, a quorum queue, a hundred
unacknowledged messages, and parallel requests for the data of a notification.

Its disadvantages:

- **Availability of orders**, as with `http_only`: while billing is unavailable an order stays pending, and the customer
  gets 503.
- **Notifications are lost in a crash.** Between COMMIT and confirm the event is stored nowhere. If orders crashes
  there, or the broker is unavailable for longer than five seconds, the order is paid and its notification is never
  written.
- **Load.** Each event causes requests back to the services that had all the data when they published it. E-mails no
  longer delay orders, but they still add to their load. While one of the services is unavailable, notifications wait,
  with their messages unacknowledged.
"""
