"""The router for Python: the `Router` class, and the commands `launch_router` and `launch_server`."""

from .router import Router

__all__ = ["Router"]
