"""Notifications: letters of joy, of sorrow and about refunds, and the mail that carries them."""
