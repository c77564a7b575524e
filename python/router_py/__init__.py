"""The router for Python: the `Router` and `Policy` classes, `launch_router` and `launch_server`."""

from .policy import Assigned, Policy
from .router import Router

__all__ = ["Assigned", "Policy", "Router"]
