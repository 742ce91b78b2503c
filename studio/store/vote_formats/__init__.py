"""Votes from and for other programs: one module a format, `transfer.py` runs them."""
