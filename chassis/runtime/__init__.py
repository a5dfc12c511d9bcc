"""The process: settings, start and stop, supervised tasks, logs, metrics, health, retention."""
