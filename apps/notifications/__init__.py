"""Notifications of joy, of sorrow and about refunds, and their delivery by e-mail."""
