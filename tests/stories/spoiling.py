"""Ways to spoil a table: SQL for the database of a service, and the invariant that is violated then."""

from typing import Final
from uuid import UUID

INVENTED: Final = (
    "INSERT INTO inbox VALUES ('0f000000-0000-7000-8000-000000000000', '{source}', 1, now())"
)
DELIVERIES: Final = (
    ("users", "users"),
    ("users", "billing"),
    ("orders", "billing"),
    ("users", "orders"),
    ("billing", "orders"),
    ("users", "notifications"),
    ("billing", "notifications"),
)
"""Publishers and those that subscribe to them."""

SLOW: Final = "01700000-0000-7000-8000-000000000000"
"""An id that a machine gives whose clock is years slow."""

KEYS: Final = {
    "users": "signing-key-published.v1",
    "orders": "order-placed.v1",
    "billing": "payment-succeeded.v1",
}
"""By publisher an event that all have received who subscribe to the publisher."""


def _slow(source: str, service: str) -> dict[str, str]:
    """All but one subscriber have received an event with a slow id."""
    key = KEYS[source]
    spoiling = {
        source: f"INSERT INTO event_log VALUES ('{SLOW}', '{source}', '{key}', now(), 1, '');"
    }
    for publisher, other in DELIVERIES:
        if publisher == source and other != service:
            received = f"INSERT INTO inbox VALUES ('{SLOW}', '{source}', 1, now())"
            spoiling[other] = spoiling.get(other, "") + received
    return spoiling


SPOILED: Final[dict[str, tuple[int, dict[str, str]]]] = {
    "a balance differs": (1, {"billing": "UPDATE accounts SET balance = 7"}),
    "net deposits differ": (1, {"billing": "UPDATE accounts SET net_deposits = 7"}),
    "the view omits an entry": (
        1,
        {
            "billing": "CREATE OR REPLACE VIEW ledger_entries AS SELECT id AS transaction_id,"
            " debit_account AS account_id, -amount AS amount, kind, created_at FROM transfers"
        },
    ),
    "the view omits what orders bring in": (
        1,
        {
            "billing": "CREATE OR REPLACE VIEW ledger_entries AS SELECT id AS transaction_id,"
            " debit_account AS account_id, -amount AS amount, kind, created_at FROM transfers UNION ALL"
            " SELECT id, credit_account, amount, kind, created_at FROM transfers WHERE kind <> 'payment'"
        },
    ),
    "an entry is one cent more": (
        1,
        {
            "billing": "CREATE OR REPLACE VIEW ledger_entries AS SELECT id AS transaction_id,"
            " debit_account AS account_id, -amount AS amount, kind, created_at FROM transfers UNION ALL"
            " SELECT id, credit_account, amount + 1, kind, created_at FROM transfers"
        },
    ),
    "wallets do not add up": (
        1,
        {
            "billing": "ALTER TABLE transfers DROP CONSTRAINT transfers_account_id_fkey; ALTER TABLE charges"
            " DROP CONSTRAINT charges_account_id_fkey; DELETE FROM accounts"
        },
    ),
    "a transfer goes elsewhere": (
        1,
        {"billing": "UPDATE transfers SET debit_account = gen_random_uuid() WHERE kind = 'refund'"},
    ),
    "a deposit is about an order": (
        1,
        {"billing": "UPDATE transfers SET order_id = gen_random_uuid() WHERE kind = 'deposit'"},
    ),
    "a balance is negative": (
        2,
        {
            "billing": "ALTER TABLE accounts DROP CONSTRAINT accounts_balance_check;"
            " UPDATE accounts SET balance = -1"
        },
    ),
    "a balance was negative": (
        2,
        {
            "billing": "ALTER TABLE transfers DROP CONSTRAINT transfers_balance_check;"
            " UPDATE transfers SET balance = -1 WHERE kind = 'withdrawal'"
        },
    ),
    "a transfer is missing": (2, {"billing": "DELETE FROM transfers WHERE kind = 'withdrawal'"}),
    "an account is in another version": (2, {"billing": "UPDATE accounts SET version = 77"}),
    "an order is lost": (3, {"orders": "DELETE FROM orders WHERE status = 'rejected'"}),
    "an order stays pending": (
        3,
        {
            "orders": "UPDATE orders SET status = 'pending', settled_at = NULL, version = 1 WHERE status = 'paid'"
        },
    ),
    "an order is settled and pending": (
        3,
        {"orders": "UPDATE orders SET settled_at = NULL WHERE status = 'paid'"},
    ),
    "an order had two outcomes": (
        3,
        {"orders": "UPDATE orders SET version = 3 WHERE status = 'paid'"},
    ),
    "a paid order was refunded": (
        3,
        {"orders": "UPDATE orders SET refunded_at = now() WHERE status = 'paid'"},
    ),
    "an order was never asked for": (
        3,
        {
            "orders": "INSERT INTO orders SELECT gen_random_uuid(), user_id, 77, currency, status, reason, placed_at,"
            " settled_at, refunded_at, version FROM orders WHERE status = 'paid'"
        },
    ),
    "a paid order has no debit": (4, {"billing": "DELETE FROM transfers WHERE kind = 'payment'"}),
    "a debit is too high": (
        4,
        {"billing": "UPDATE transfers SET amount = amount + 1 WHERE kind = 'payment'"},
    ),
    "a debit came from somebody else": (
        4,
        {
            "billing": "INSERT INTO accounts SELECT gen_random_uuid(), gen_random_uuid(), 0, 1, now();"
            " UPDATE charges SET account_id = (SELECT id FROM accounts WHERE balance = 0 LIMIT 1) WHERE status = 'paid'"
        },
    ),
    "an order was debited twice": (
        4,
        {
            "billing": "DROP INDEX transfers_once_per_order; INSERT INTO transfers SELECT gen_random_uuid(), kind,"
            " debit_account, credit_account, amount, account_id, account_version + 50, balance, order_id, now()"
            " FROM transfers WHERE kind = 'payment'"
        },
    ),
    "an order was debited twice, and the ledger follows": (
        4,
        {
            "billing": "DROP INDEX transfers_once_per_order; INSERT INTO transfers SELECT gen_random_uuid(), t.kind,"
            " debit_account, credit_account, amount, a.id, a.version + 1, a.balance - amount, order_id, now()"
            " FROM transfers t JOIN accounts a ON a.id = t.account_id WHERE kind = 'payment' LIMIT 1; UPDATE accounts a"
            " SET version = t.account_version, balance = t.balance FROM transfers t"
            " WHERE t.account_id = a.id AND t.account_version = a.version + 1"
        },
    ),
    "a refused order was debited": (
        4,
        {
            "billing": "INSERT INTO transfers SELECT gen_random_uuid(), 'payment', account_id, '"
            + str(UUID(int=2))
            + "', amount, account_id, 99, 0, order_id, now() FROM charges WHERE status = 'rejected'"
        },
    ),
    "a debit has no charge": (4, {"billing": "DELETE FROM charges WHERE status = 'paid'"}),
    "an order was decided otherwise": (
        4,
        {"orders": "UPDATE orders SET status = 'rejected' WHERE status = 'paid'"},
    ),
    "an order was not decided": (4, {"billing": "DELETE FROM charges WHERE status = 'rejected'"}),
    "what does not exist was charged": (4, {"orders": "DELETE FROM orders WHERE status = 'paid'"}),
    "a cancelled order was kept": (4, {"billing": "DELETE FROM transfers WHERE kind = 'refund'"}),
    "there was money enough": (
        5,
        {"billing": "UPDATE charges SET amount = 1 WHERE status = 'rejected'"},
    ),
    "the balance was another": (
        5,
        {"billing": "UPDATE charges SET balance = 3 WHERE status = 'rejected'"},
    ),
    "it was not cancelled": (
        5,
        {"billing": "UPDATE charges SET reason = 'order_cancelled' WHERE status = 'rejected'"},
    ),
    "a notification is missing": (
        6,
        {"notifications": "DELETE FROM notifications WHERE kind = 'joy'"},
    ),
    "a notification exists twice": (
        6,
        {
            "notifications": "DROP INDEX notifications_once; CREATE TEMP TABLE more AS SELECT * FROM notifications"
            " WHERE kind = 'sorrow'; UPDATE more SET id = gen_random_uuid();"
            " INSERT INTO notifications SELECT * FROM more"
        },
    ),
    "a notification is of the wrong kind": (
        6,
        {"notifications": "UPDATE notifications SET kind = 'joy' WHERE kind = 'sorrow'"},
    ),
    "a notification has the address of another user": (
        6,
        {"notifications": "UPDATE notifications SET address = 'eve@x.test' WHERE kind = 'sorrow'"},
    ),
    "a notification has another amount": (
        6,
        {"notifications": "UPDATE notifications SET amount = 1 WHERE kind = 'refund'"},
    ),
    "a notification is about no order": (
        6,
        {
            "notifications": "UPDATE notifications SET order_id = gen_random_uuid() WHERE kind = 'refund'"
        },
    ),
    "a copy is old": (7, {"notifications": "UPDATE recipients SET version = 0"}),
    "a copy has another name": (7, {"notifications": "UPDATE recipients SET name = 'Eve'"}),
    "a copy is missing": (7, {"orders": "DELETE FROM customers"}),
    "a copy is of another version": (7, {"billing": "UPDATE holders SET version = 99"}),
    "a copy has no owner": (
        7,
        {"orders": "INSERT INTO customers VALUES (gen_random_uuid(), 1)"},
    ),
    "a key is missing": (7, {"billing": "DELETE FROM signing_keys"}),
    "billing knows another order": (7, {"billing": "UPDATE charges SET amount = amount + 1"}),
    "something was not published": (
        8,
        {
            "orders": "WITH logged AS (INSERT INTO event_log"
            " VALUES (gen_random_uuid(), 'orders', 'x', '2020-01-01', 1, '{}') RETURNING id)"
            " INSERT INTO outbox (id) SELECT id FROM logged"
        },
    ),
    "a notification is not sent": (
        8,
        {
            "notifications": "UPDATE notifications SET status = 'pending', sent_at = NULL, due_at = now()"
        },
    ),
    "an event was not received": (
        9,
        {
            "notifications": "DELETE FROM inbox WHERE id = ("
            "SELECT event_group(event_id) FROM processed_events WHERE event_id NOT IN"
            " (SELECT causation_id FROM notifications) LIMIT 1)"
        },
    ),
    "the event log has lost an event": (
        9,
        {"users": "DELETE FROM event_log WHERE routing_key = 'user-registered.v1'"},
    ),
    "one of several events was not received": (
        9,
        {"orders": "UPDATE event_log SET events = events + 1"},
    ),
    **{
        f"{service} has received what {source} has not published": (
            9,
            {service: INVENTED.format(source=source)},
        )
        for source, service in DELIVERIES
    },
    **{
        f"{service} has not received what {source} published by a slow clock": (
            9,
            _slow(source, service),
        )
        for source, service in DELIVERIES
    },
    "a notification's cause was never received": (
        9,
        {
            "notifications": "UPDATE notifications SET causation_id = gen_random_uuid() WHERE kind = 'joy'"
        },
    ),
}
