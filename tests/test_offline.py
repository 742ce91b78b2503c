"""The offline guard itself: a guard that cannot bite proves nothing."""

import os
import socket
import subprocess
import sys

import pytest

OUTSIDE = "192.0.2.1"  # TEST-NET-1 of RFC 5737: no such machine


def test_a_connection_off_loopback_is_refused_and_written_down(offline):
    with pytest.raises(ConnectionRefusedError), socket.socket() as connection:
        connection.connect((OUTSIDE, 80))
    assert OUTSIDE in offline.read_text()
    os.truncate(offline, 0)


def test_a_name_lookup_is_refused_too(offline):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("example.invalid", 80))
    os.truncate(offline, 0)


def test_a_python_that_a_test_starts_is_offline_too(offline):
    program = f"import socket; socket.create_connection(('{OUTSIDE}', 80), timeout=1)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode != 0
    assert "The tests run offline" in child.stderr
    assert OUTSIDE in offline.read_text()
    os.truncate(offline, 0)


def test_loopback_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
