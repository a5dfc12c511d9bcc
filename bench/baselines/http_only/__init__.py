"""HTTP only: services that call each other and wait for the response. There is no broker.

Most teams that split an application for the first time build this, and many keep it, because it is the easiest to
follow: a request goes along a chain of calls, and its response has the outcome.

    users -> billing         registration opens the account
    orders -> billing        an order is charged
    orders -> notifications  a notification about the outcome is written
    notifications -> users   for the address, which is then cached for a minute

It is optimised: an aiohttp client with persistent connections, no ORM where it counts, one statement for a debit, one
for a notification, two for an order. Calls are idempotent, so lost responses do no harm.

Its disadvantages:

- **Availability.** An order needs three services. While billing is unavailable no order is decided: it stays pending,
  the customer gets 503, and a sweeper has it decided later (`parts/orders.py`). A registration works without billing.
- **Notifications.** The notification is requested before the outcome is stored, so that a crash of orders loses
  neither. But if notifications is unavailable the outcome must not wait: it is stored and returned, and the request is
  retried from memory for about two minutes. If notifications stays unavailable longer, or orders ends before, it is
  lost.
- **No buffer for bursts.** There is no queue: a caller that is faster than the slowest service waits or is refused.
- **Coupling.** Another service that needs to know of payments must be called and waited for as well.
"""
