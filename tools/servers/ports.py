"""Free ports on this machine."""

import random
import socket

# Below the ephemeral ports (32768 and up on Linux). A client that reconnects to a stopped server on an ephemeral port
# may get that port as its own local port, and then connect to itself.
_PRIVATE = range(20_000, 30_000)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def private_port() -> int:
    """A free port outside of the usual ones."""
    return next(port for port in random.sample(_PRIVATE, len(_PRIVATE)) if is_free(port))


def port_near(usual: int) -> int:
    """The usual port; if it is in use, the first free one at a distance of 10, 20, ..."""
    return next(port for port in range(usual, 65_536, 10) if is_free(port))
