"""Refuses every connection that leaves this machine, and writes it down.

Python's audit events see each socket call of the interpreter, whichever library makes it, so
nothing is patched. `sitecustomize.py` beside this file puts the same guard into every Python that a
test starts.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path

LOCAL_NAMES = frozenset({"localhost", "", "0.0.0.0", "::", socket.gethostname()})


def is_local(host: object) -> bool:
    """True for this machine's own names and loopback addresses."""
    if host is None:
        return True
    name = host.decode("idna") if isinstance(host, bytes) else str(host)
    if name in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(name.split("%")[0]).is_loopback
    except ValueError:
        return False


def host_of(event: str, args: tuple) -> object:
    """Return the host that an audit event wants to reach; None when it stays on this machine."""
    if event == "socket.getaddrinfo":
        return args[0]
    if event in ("socket.connect", "socket.sendto"):
        connection, address = args[0], args[1]
        if connection.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            return address[0]
    return None


def forbid_outside_connections() -> None:
    """Make every later connection off loopback fail; each adds a line to $EASEL_OFFLINE_LOG.

    The variable is read at each of them: each of several test processes sets a log of its own.
    """

    def guard(event: str, args: tuple) -> None:
        if not event.startswith("socket."):
            return
        host = host_of(event, args)
        if not is_local(host):
            with Path(os.environ["EASEL_OFFLINE_LOG"]).open("a", encoding="utf-8") as lines:
                lines.write(f"{event} {host!r} by {sys.argv[:1]}\n")
            raise ConnectionRefusedError(f"The tests run offline; {event} wanted {host!r}.")

    sys.addaudithook(guard)
