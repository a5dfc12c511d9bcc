"""Free ports on this machine. One is chosen seconds before a server binds it; no other of our processes chooses it."""

import os
import random
import socket
from collections import deque
from typing import Final

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
    return next(port for port in random.sample(_PRIVATE, len(_PRIVATE)) if _chosen(port))


def port_near(usual: int) -> int:
    """The usual port; if it is in use, the first free one at a distance of 10, 20, ..."""
    return next(port for port in range(usual, 65_536, 10) if _chosen(port))


CLAIMS: Final = 64
"""The last ports that a process chose and claims: more than one start needs before it has bound them."""

_claims: Final = deque[int]()
"""File descriptors."""


def _chosen(port: int) -> bool:
    """Claim a port, for as long as this process lives or until it has chosen CLAIMS others. False if it is not free.

    A claim is a name in Linux' abstract namespace for sockets: it ends with the process, and a network namespace has
    its own names as it has its own ports. Other systems have none, and claim nothing.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        try:
            claim.bind(f"\0chorus.port.{port}")
        except FileNotFoundError:
            return is_free(port)
        except OSError:
            return False
        if not is_free(port):
            return False
        _claims.append(claim.detach())
    if len(_claims) > CLAIMS:
        os.close(_claims.popleft())
    return True
