"""The services of Chorus. They meet only through events."""

from typing import Final

SERVICES: Final = ("users", "billing", "orders", "notifications")
"""Their names, in the order of their HTTP ports."""
