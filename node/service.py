"""Tells systemd, if it started this process, when the node is ready and when it stops.

The protocol is sd_notify(3): one datagram to the Unix socket that NOTIFY_SOCKET names.
"""

import contextlib
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"


def tell(state: str) -> None:
    """Send a state to the service manager; does nothing where there is none.

    A manager that does not listen must not end the node, so errors are ignored.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        # A name that is in no file system: Linux writes its first byte as zero.
        address = "\0" + address[1:]
    with contextlib.suppress(OSError):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            # A full queue must not hold up the node.
            sending.setblocking(False)
            sending.connect(address)
            sending.send(state.encode())
