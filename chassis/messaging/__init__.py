"""Delivery of events: each module below, in the order in which an event passes it.

`outbox` (a row of the business transaction) -> `relay` (publishes rows) -> `publisher` (a connection with confirms)
-> `message` (the form on the broker) -> `topology` (exchanges and queues) -> `consumer` (one queue at work, with the
inbox that deduplicates) -> `retries` and `dead_letters` (what cannot be processed).

Beside them: `addresses` (the broker's nodes), `broker` (the consumers' connection), `private_names` (what is overridden
in FastStream and aio-pika) and `errors`.
"""
