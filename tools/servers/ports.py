"""Free ports on this machine."""

import random
import socket

# Below the range that clients' own ports are taken from (32768 and up on Linux): there, a client that keeps
# trying a dead server's port may be given that very port for itself and then hold a conversation with itself.
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
    """A free port that nobody would look for."""
    return next(port for port in random.sample(_PRIVATE, len(_PRIVATE)) if is_free(port))


def port_near(usual: int) -> int:
    """The usual port, or the next free one ten further, twenty further, ..."""
    return next(port for port in range(usual, 65_536, 10) if is_free(port))
