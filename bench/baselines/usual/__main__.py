"""`python -m bench.baselines.usual <service> --port N`."""

from bench.baselines.common import main

if __name__ == "__main__":
    main("usual")
