"""The ASGI application of a worker: its routes, its errors and what surrounds them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from .. import __version__
from .errors import install_error_handlers
from .middleware import ApiKeyMiddleware, RequestIdMiddleware
from .model_routes import install_routes
from .openapi import complete_document
from .service import WorkerService


def build_app(service: WorkerService) -> ASGIApp:
    """The routes find `service` in the application's state."""
    app = FastAPI(title="radixfleet worker", version=__version__)
    app.state.service = service
    install_error_handlers(app)
    install_routes(app, service)
    if service.server_args.enable_metrics:
        from .metrics import install_metrics  # prometheus_client need not be loaded without

        install_metrics(app, service)
    complete_document(app)
    if service.server_args.api_key is not None:
        app.add_middleware(ApiKeyMiddleware, api_key=service.server_args.api_key)
    if service.server_args.cors_allow_origins is not None:
        app.add_middleware(  # outside of the key: a browser asks without it
            CORSMiddleware,
            allow_origins=service.server_args.cors_allow_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return RequestIdMiddleware(app)  # outside of all else: errors have an id too
