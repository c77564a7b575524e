"""The worker: a batching inference engine and its HTTP server."""

__version__ = "0.1.0"
