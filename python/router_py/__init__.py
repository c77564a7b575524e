"""The router for Python: the `Router` class, `launch_router` and `launch_server`."""

from .router import Router

__all__ = ["Router"]
