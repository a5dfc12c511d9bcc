"""Notifications of joy, of sorrow and about refunds, and their delivery."""
