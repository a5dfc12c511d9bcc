"""Billing: accounts, a double-entry ledger, and the outcome of every payment."""
