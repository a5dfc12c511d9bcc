"""Rules, without servers, files or clocks."""
