"""How an event travels, in the order of travel.

`transaction` (a use case writes it) -> `outbox` (it waits in the business database) -> `relay` (it is published)
-> `wire` (its form on the broker) -> `topology` (exchanges and queues) -> `inbox` (it is heard, once)
-> `committer` (many are handled in one transaction) -> `parking` (one that cannot be handled is set aside).

Beside the way: `statements` (the SQL for sets of rows), `publisher` (a connection that publishes), `administration`
(applies the topology), `nodes` (which node of the broker to turn to),
`crash` (where tests have a process die).
"""
