"""What the operator of a running system uses: the `chorus` command of the image."""
