"""Easel: a local diffusion studio that learns its artist's taste."""

__version__ = "0.1.0"
