"""Loaded by every Python that a test starts (through PYTHONPATH): keeps it offline too."""

import os

from offline_guard import forbid_outside_connections

if "EASEL_OFFLINE_LOG" in os.environ:
    forbid_outside_connections()
