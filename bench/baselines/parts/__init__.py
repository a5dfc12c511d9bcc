"""What services of several baselines are made of.

`users`, `billing`, `orders` and `letters` are for services that call each other, through `callees`, and work on plain
asyncpg connections, with the statements of `sql` and `once`. The usual build takes only `keys` and `mailer`.
"""
