"""`python -m bench.baselines.events_for_notifications <service> --port N`."""

from bench.baselines.common import main

if __name__ == "__main__":
    main("events_for_notifications")
