"""drkit: break it on purpose, recover it, and measure the recovery from the client's side."""

__version__ = "0.1.0"
