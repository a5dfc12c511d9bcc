"""`python -m ops` is `chorus`."""

from ops.main import main

main()
