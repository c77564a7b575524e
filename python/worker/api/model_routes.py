"""The routes of a worker, by what its model does; those that it cannot answer say what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from . import (
    control,
    control_engine,
    encode,
    label_score,
    native,
    pair_score,
    parsing,
    rerank,
    sessions,
)
from .errors import ApiError, bad_request
from .openai import batches, chat, completions, embeddings, files, models, tokenization
from .openai.responses.routes import install_responses
from .openai.responses.routes import router as responses
from .service import WorkerService, service_of

_OF_ALL_MODELS = (models, tokenization, files, batches, control, control_engine)
_OF_GENERATION = (native, parsing, sessions, chat, completions, label_score)
_OF_EMBEDDING = (embeddings, encode, rerank, pair_score)


def install_routes(app: FastAPI, service: WorkerService) -> None:
    """Add all that this worker answers."""
    for module in _OF_ALL_MODELS:
        app.include_router(module.router)
    generation = [*(module.router for module in _OF_GENERATION), responses]
    embedding = [module.router for module in _OF_EMBEDDING]
    if service.engine_info.embedding is None:
        for module in _OF_GENERATION:
            app.include_router(module.router)
        install_responses(app, service)
        app.include_router(_refusing(_paths(embedding) - _paths(generation), _generates))
    else:
        for router in embedding:
            app.include_router(router)
        app.include_router(_refusing(_paths(generation) - _paths(embedding), _does_not_generate))


def _paths(routers: Iterable[APIRouter]) -> set[str]:
    routes = (route for router in routers for route in router.routes)
    return {route.path for route in routes if isinstance(route, APIRoute)}


def _refusing(paths: Iterable[str], why: Callable[[WorkerService], ApiError]) -> APIRouter:
    """Answers all of `paths` with an error."""
    router = APIRouter(include_in_schema=False)

    async def refuse(request: Request) -> Response:
        return why(service_of(request)).response()

    for path in paths:
        router.add_api_route(path, refuse, methods=["GET", "POST", "PUT", "DELETE"])
    return router


def _generates(service: WorkerService) -> ApiError:
    return bad_request(
        f"The model {service.model_name} is served to generate text. To embed or classify with it, "
        "start the worker with --is-embedding",
        "model",
        "unsupported_model",
    )


def _does_not_generate(service: WorkerService) -> ApiError:
    info = service.engine_info.embedding
    kind = "a classification" if info and info.kind == "classification" else "an embedding"
    return bad_request(
        f"The model {service.model_name} is served as {kind} model, which generates no text. It "
        "answers /v1/embeddings, /encode, /classify, /v1/rerank and /v1/score",
        "model",
        "unsupported_model",
    )
