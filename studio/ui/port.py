"""Where the page is: a free port, and the address that a browser takes."""

from __future__ import annotations

import errno
import socket
import sys

from studio.core.errors import EaselError

PORTS_TRIED = 100


def free_port(host: str, wanted: int) -> int:
    """Return `wanted`, or the next port above it that nobody listens on; 0 lets the system choose.

    Raises EaselError when none of `PORTS_TRIED` is free or the address is not this machine's.
    """
    last = min(wanted + PORTS_TRIED, 65536)
    for port in range(wanted, last):
        try:
            with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
                if sys.platform != "win32":  # there the option would share a port that is taken
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                return probe.getsockname()[1]
        except PermissionError as error:
            if port < 1024:
                raise EaselError(
                    f"Port {port} needs an administrator's rights; choose one from 1024 up."
                ) from error
        except socket.gaierror as error:
            raise EaselError(f"There is no address '{host}' on this machine.") from error
        except OSError as error:
            if not _is_taken(error):
                raise EaselError(
                    f"The page cannot be served at {host} ({error.strerror}); "
                    "leave --listen without an address to serve all."
                ) from error
    raise EaselError(f"No port from {wanted} to {last - 1} is free; choose another with --port.")


def address(host: str, port: int) -> str:
    """Return the URL under which this machine's browser finds the page."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_taken(error: OSError) -> bool:
    return error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", -1))
