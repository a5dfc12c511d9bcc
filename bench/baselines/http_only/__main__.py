"""`python -m bench.baselines.http_only <service> --port N`."""

from bench.baselines.common import main

if __name__ == "__main__":
    main("http_only")
