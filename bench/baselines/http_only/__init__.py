"""HTTP only: services that call each other and wait for the answer. No broker.

Who builds so: most teams that split an application for the first time, and many who stay with it, for it is the
easiest to follow: a request goes down a chain of calls, and its answer has the outcome.

    users -> billing         registration opens the account
    orders -> billing        an order is charged
    orders -> notifications  a letter about the outcome is written
    notifications -> users   for the address, which is then remembered for a minute

It is built as well as that can be: an aiohttp client with connections that are kept, no ORM where it counts, one
statement for a debit, one for a letter, two for an order. Calls may be repeated, so lost answers do no harm.

What it gives up:

- **Availability.** Who orders waits for three services. With billing away no order is decided: it stays pending, the
  customer gets 503, and a sweeper has it decided later (`parts/orders.py`). A registration does without billing.
- **Letters.** The letter is asked for before the outcome is stored, so that a crash of orders loses neither. But with
  notifications away the outcome must not wait: it is stored and answered, and the letter is asked for again, from
  memory, for about two minutes. If notifications stays away longer, or orders ends before, that letter is lost.
- **Room for bursts.** There is no queue: who calls faster than the slowest service answers, waits or is refused.
- **Room for more services.** Who else wants to know of payments must be called as well, and be waited for.
"""
