"""`python -m apps.cli` is `chorus`."""

from apps.cli.main import main

main()
