"""Rules on billing's tables: the ledger, its wallets, and what charges moved. Amounts are minor units."""

from typing import Final

from apps.billing.models import CASH, REVENUE
from ops.audit.rules import Check, Rule

WALLETS: Final = Check(
    "account",
    "billing",
    """
    SELECT id, balance, version, net_deposits, coalesce(entries, 0) AS entries, coalesce(moved, 0) AS moved,
        coalesce(transfers, 0) AS transfers, coalesce(net, 0) AS net
    FROM accounts FULL JOIN (
        SELECT account_id AS id, count(*) AS transfers,
            sum(CASE WHEN kind IN ('deposit', 'refund') THEN amount ELSE -amount END) AS moved,
            sum(CASE kind WHEN 'deposit' THEN amount WHEN 'withdrawal' THEN -amount END) AS net
        FROM transfers GROUP BY 1
    ) AS by_wallet USING (id)
    LEFT JOIN (SELECT account_id AS id, sum(amount) AS entries FROM ledger_entries GROUP BY 1) AS by_side USING (id)
    """,
    (
        Rule(1, "balance IS DISTINCT FROM entries OR balance IS DISTINCT FROM moved",
             "has {balance}, its entries sum to {entries}, its transfers to {moved}"),
        Rule(2, "balance < 0", "has {balance}"),
        Rule(2, "version <> transfers + 1", "is in version {version} after {transfers} transfers"),
        Rule(1, "net_deposits <> net", "has net deposits of {net_deposits}, by its transfers {net}"),
    ),
)  # fmt: skip
"""Every balance is the sum of the wallet's entries and of its transfers, so all wallets add up. None is missing."""

TRANSFERS: Final = Check(
    "transfer",
    "billing",
    f"""
    SELECT *, lag(balance, 1, 0::bigint) OVER wallet + CASE WHEN incoming THEN amount ELSE -amount END AS due_balance,
        lag(account_version, 1, 1) OVER wallet + 1 AS due_version,
        CASE WHEN incoming THEN other ELSE account_id END AS due_debit,
        CASE WHEN incoming THEN account_id ELSE other END AS due_credit
    FROM (
        SELECT *, kind IN ('deposit', 'refund') AS incoming, kind IN ('payment', 'refund') AS for_order,
            CASE WHEN kind IN ('deposit', 'withdrawal') THEN '{CASH}'::uuid ELSE '{REVENUE}'::uuid END AS other
        FROM transfers
    ) AS moved WINDOW wallet AS (PARTITION BY account_id ORDER BY account_version)
    """,
    (
        Rule(1, "(debit_account, credit_account) IS DISTINCT FROM (due_debit, due_credit)",
             "is a {kind} between other accounts"),
        Rule(1, "(order_id IS NOT NULL) <> for_order", "is a {kind} about order {order_id}"),
        Rule(2, "balance < 0 OR (balance, account_version) IS DISTINCT FROM (due_balance, due_version)",
             "left account {account_id} with {balance} in version {account_version}, which should be {due_balance}"
             " in version {due_version}"),
    ),
)  # fmt: skip
"""Every transfer stands between the accounts of its kind, and follows the wallet's transfer before it without a gap."""

TRANSACTIONS: Final = Check(
    "transfer",
    "billing",
    "SELECT transaction_id AS id, sum(amount) AS total FROM ledger_entries GROUP BY 1",
    (Rule(1, "total <> 0", "sums to {total}, not 0"),),
)
"""Every transaction's entries sum to zero."""

CHARGES: Final = Check(
    "order",
    "billing",
    """
    SELECT id, status, amount, moved, repeated, CASE status
        WHEN 'paid' THEN format('payment %s of %s', amount, account_id)
        WHEN 'refunded' THEN format('payment %1$s of %2$s, refund %1$s of %2$s', amount, account_id)
        ELSE '' END AS due
    FROM (SELECT order_id AS id, status, amount, account_id FROM charges) AS charged
    FULL JOIN (
        SELECT order_id AS id, count(*) > count(DISTINCT kind) AS repeated,
            string_agg(format('%s %s of %s', kind, amount, account_id), ', ' ORDER BY kind) AS moved
        FROM transfers WHERE order_id IS NOT NULL GROUP BY 1
    ) AS moved USING (id)
    """,
    (
        Rule(4, "repeated IS NOT TRUE AND (status IS NULL OR coalesce(moved, '') <> due)",
             "of {amount} was charged as {status}: the ledger has '{moved}', which should be '{due}'"),
        Rule(4, "repeated", "has transfers of kind twice: {moved}"),
    ),
)  # fmt: skip
"""A paid charge has one payment of its amount from its account, a refunded one has it back, others move nothing."""

REFUSALS: Final = Check(
    "order",
    "billing",
    """
    SELECT c.order_id AS id, c.amount, c.balance, reason,
        coalesce(t.balance, CASE WHEN account_version = 1 THEN 0 END) AS ledger
    FROM charges c LEFT JOIN transfers t USING (account_id, account_version) WHERE status = 'rejected'
    """,
    (
        Rule(5, "reason IS DISTINCT FROM 'order_cancelled' AND (balance >= amount OR balance IS DISTINCT FROM ledger)",
             "of {amount} was refused with {balance} on the account, by the ledger {ledger}"),
    ),
)  # fmt: skip
"""A refusal for want of money is true of the balance that the ledger had at that version of the account."""

CHECKS: Final = (WALLETS, TRANSFERS, TRANSACTIONS, CHARGES, REFUSALS)
