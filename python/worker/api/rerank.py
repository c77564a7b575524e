"""POST /v1/rerank: documents in the order of their relevance to a query, in Jina's shape."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Discriminator, Field, Tag

from .embedding import usage_of
from .fields import RequestModel
from .http_exchange import json_response, read_body, unless_disconnected
from .openapi import takes
from .prompt_limits import check_count
from .relevance import NamedText, relevance
from .service import service_of

router = APIRouter()


class TextDocument(RequestModel):
    """A document as an object."""

    text: str


_Document = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[TextDocument, Tag("<object>")],
    Discriminator(lambda value: "<object>" if isinstance(value, dict | TextDocument) else "<text>"),
]


class RerankBody(RequestModel):
    """The body of POST /v1/rerank. Without `top_n` the answer has all documents."""

    model: str = ""
    query: str
    documents: list[_Document]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = True


@router.post("/v1/rerank", openapi_extra=takes(RerankBody))
@router.post("/rerank", openapi_extra=takes(RerankBody), include_in_schema=False)
async def rerank(request: Request) -> Response:
    """The documents that answer the query best, best first; of equals the earlier one."""
    service = service_of(request)
    body = await read_body(request, RerankBody)
    check_count(len(body.documents), "documents")
    texts = [each if isinstance(each, str) else each.text for each in body.documents]
    query = NamedText(body.query, "query")
    pairs = [(query, NamedText(text, f"documents[{i}]")) for i, text in enumerate(texts)]
    work = relevance(service, pairs, "rerank")
    scores, answers = await unless_disconnected(request.receive, work)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])

    def result(index: int) -> dict[str, Any]:
        found = {"index": index, "relevance_score": scores[index]}
        return {**found, "document": {"text": texts[index]}} if body.return_documents else found

    return json_response(
        {
            "id": answers[0].rid.removesuffix("-0"),
            "model": body.model or service.model_name,
            "results": [result(index) for index in order[: body.top_n]],
            "usage": usage_of(answers, service.server_args.enable_cache_report),
        }
    )
