"""Orders: placed, paid, rejected, cancelled."""
