"""What several baselines use.

`users`, `billing`, `orders` and `notifications` are for services that call each other by `services`. They work on plain
asyncpg connections, with the statements of `sql` and `idempotency`. The usual build uses only `keys` and `mailer`.
"""
