"""Each keyword argument that OpenAI's client documents is a field here, and stands in the docs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai.resources import batches, chat, completions, embeddings, files, responses

from worker.api.fields import RequestModel
from worker.api.openai.batches import BatchBody, BatchListQuery
from worker.api.openai.embeddings import EmbeddingBody
from worker.api.openai.files import FileListQuery, UploadFields
from worker.api.openai.responses.types import (
    InputTokensBody,
    ItemsQuery,
    ResponseBody,
    RetrieveQuery,
)
from worker.api.openai.types import ChatBody, CompletionBody

# What is no field of a body or a query: the client's own, a part of the path, the file of a form.
OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
NO_FIELDS = OF_THE_CLIENT | {"response_id", "file"}
DOCS = (Path(__file__).parents[3] / "docs" / "api.md").read_text()

CALLS: list[tuple[Callable[..., Any], type[RequestModel]]] = [
    (chat.Completions.create, ChatBody),
    (completions.Completions.create, CompletionBody),
    (embeddings.Embeddings.create, EmbeddingBody),
    (files.Files.create, UploadFields),
    (files.Files.list, FileListQuery),
    (batches.Batches.create, BatchBody),
    (batches.Batches.list, BatchListQuery),
    (responses.Responses.create, ResponseBody),
    (responses.Responses.retrieve, RetrieveQuery),
    (responses.InputItems.list, ItemsQuery),
    (responses.InputTokens.count, InputTokensBody),
]


@pytest.mark.parametrize(("call", "model"), CALLS, ids=lambda each: each.__qualname__)
def test_every_parameter_of_the_client_is_known(
    call: Callable[..., Any], model: type[RequestModel]
) -> None:
    given = set(inspect.signature(call).parameters) - NO_FIELDS
    assert given
    assert given - set(model.model_fields) == set()
    assert {name for name in given if f"{name}`" not in DOCS} == set()
