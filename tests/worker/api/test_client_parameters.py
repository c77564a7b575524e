"""What clients document is a field here: the arguments of OpenAI's, the names of SGLang 0.4.3."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai.resources import batches, chat, completions, embeddings, files, responses
from pydantic import ValidationError

from worker.api.fields import RequestModel
from worker.api.native_types import GenerateBody, SamplingFields
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


GENERATE = """text input_ids input_embeds image_data sampling_params rid return_logprob
logprob_start_len top_logprobs_num return_text_in_logprobs stream log_metrics modalities lora_path
session_params custom_logit_processor return_hidden_states"""
SAMPLING = """max_new_tokens stop stop_token_ids temperature top_p top_k min_p ignore_eos
skip_special_tokens spaces_between_special_tokens n json_schema regex ebnf structural_tag
frequency_penalty presence_penalty repetition_penalty min_new_tokens custom_params"""


@pytest.mark.parametrize(("names", "model"), [(GENERATE, GenerateBody), (SAMPLING, SamplingFields)])
def test_every_name_of_the_native_api_is_known(names: str, model: type[RequestModel]) -> None:
    assert set(names.split()) - set(model.model_fields) == set()
    assert [name for name in names.split() if f"`{name}`" not in DOCS] == []


# Bodies that are complete but for what a row of the table is about, by the section of the docs.
SECTIONS: dict[str, list[tuple[type[RequestModel], dict[str, Any]]]] = {
    "## Chat completions and completions": [
        (ChatBody, {"messages": [{"role": "user", "content": "hi"}]}),
        (CompletionBody, {"prompt": "hi"}),
    ],
    "## Responses": [(ResponseBody, {"input": "hi"})],
    "## `/generate`": [(GenerateBody, {"text": "hi"}), (SamplingFields, {})],
}


def refused_in(section: str) -> list[str]:
    """The names in the rows of a section that say no."""
    _, _, text = DOCS.partition(f"\n{section}\n")
    rows = re.findall(r"^\| (.*?) \| no \|", text.partition("\n## ")[0], re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([a-z_]+)`", row)]


@pytest.mark.parametrize("section", SECTIONS)
def test_what_the_docs_say_is_refused_is_refused(section: str) -> None:
    names = refused_in(section)
    known = {name for model, _ in SECTIONS[section] for name in model.model_fields}
    assert names
    assert set(names) <= known
    for model, valid in SECTIONS[section]:
        for name in set(names) & model.model_fields.keys():
            model.model_validate({**valid, name: None})
            for value in ("other", 3, True, [{"other": 1}], {"other": 1}):
                with pytest.raises(ValidationError):
                    model.model_validate({**valid, name: value})
