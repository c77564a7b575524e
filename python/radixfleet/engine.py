"""The offline engine: the worker's scheduler in this process, without HTTP.

from radixfleet import Engine

with Engine(model_path="smollm2-135m") as engine:
    print(engine.generate("The capital of France is", {"temperature": 0})["text"])
"""

from __future__ import annotations

import contextlib
import gc
import uuid
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any, NamedTuple, cast

import torch

from worker.config import ServerArgs
from worker.embedded_models import resolve_model_path
from worker.messages import Embedding, EmbedRequest, InputEmbeds, Ready, TokenChunk
from worker.scheduler.ranks import Followers
from worker.scheduler.scheduler import Scheduler
from worker.scheduler.startup import build_scheduler
from worker.tokenization.native_answer import LogprobWish, NativeAnswer, one_each
from worker.tokenization.template_source import load_chat_template
from worker.tokenization.text_output import GenerationAborted, TextOutput, TextRequest
from worker.tokenization.tokenizer import ModelInput, Tokenizer, load_tokenizer

from .embedded_prompts import embedded_prompts
from .engine_control import ControlledEngine
from .sampling_options import SamplingOptions

Answer = dict[str, Any]


class _Prompt(NamedTuple):
    """`token_ids` are placeholders where there are `embeds`."""

    token_ids: list[int]
    embeds: InputEmbeds | None = None


class Engine(ControlledEngine):
    """Loads a model and answers prompts; names and shapes of answers are SGLang's.

    The scheduler steps in the thread that waits for an answer. Several streams may be read in turn,
    and share their batches, but all calls belong to one thread.
    """

    def __init__(
        self,
        *,
        progress: Callable[[str, float], None] | None = None,
        **server_args: Any,
    ) -> None:
        """`server_args` are the fields of ServerArgs: model_path, dtype, max_total_tokens, …

        With `skip_tokenizer_init` prompts are `input_ids`, and answers have no text. `progress` is
        told what is being done at the start, and what share of that is done. Raises TypeError or
        ValueError for wrong arguments, and what a worker prints as its one line: an error of the
        model's files, device or memory.

        With `tp_size` above 1 the other ranks are processes of this one. If one of them dies, this
        process ends with a message and exit code 1.
        """
        self.server_args = ServerArgs(**server_args)
        self.tokenizer = _load_tokenizer(self.server_args)
        self.info: Ready
        self._live: Scheduler | None
        self._ranks = Followers(self.server_args) if self.server_args.tp_size > 1 else None
        try:
            self._live, self.info = build_scheduler(
                self.server_args, progress or (lambda stage, fraction: None), self._ranks
            )
        except BaseException:
            self._end_ranks()
            raise
        self._inboxes: dict[str, list[Any]] = {}  # by request, one for all of a call

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    @property
    def scheduler(self) -> Scheduler:
        """What does the work, for those who measure it. Raises RuntimeError after a shutdown."""
        if self._live is None:
            raise RuntimeError("the engine was shut down")
        return self._live

    def generate(
        self,
        prompt: str | list[str] | None = None,
        sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None,
        input_ids: list[int] | list[list[int]] | None = None,
        stream: bool = False,
        *,
        return_logprob: bool | list[bool] = False,
        logprob_start_len: int | list[int] = -1,
        top_logprobs_num: int | list[int] = 0,
        return_hidden_states: bool = False,
        input_embeds: Any = None,
        custom_logit_processor: str | list[str | None] | None = None,
    ) -> Any:
        """Continue one prompt, or each of a list, given as text, token ids or embeddings.

        `sampling_params` is one dict for all prompts, or a list with one for each; the names are
        those of POST /generate. Returns a dict for one prompt and a list of dicts for a list:
        "text", "output_ids" and "meta_info" with id, prompt_tokens, completion_tokens,
        cached_tokens, finish_reason and e2e_latency (seconds). With `stream`, an iterator of such
        dicts, each with all text and tokens so far; those of several answers also say which one
        they are, as "index". Closing the iterator ends its requests. With "n" above 1 in
        `sampling_params` there is a list for one prompt, too; the answers to a prompt stand one
        after the other.

        `return_logprob`, `logprob_start_len`, `top_logprobs_num` and `return_hidden_states` add to
        "meta_info" what they add to that of /generate; hidden states are float32 tensors. They are
        given for all prompts, the former three also as lists, one each.

        `input_embeds` are numbers [tokens, hidden size], as lists, an array or a tensor, or a list
        of such. `custom_logit_processor` is what `CustomLogitProcessor.to_str` returns, for all
        prompts or as a list, one each; it needs the server argument enable_custom_logit_processor.

        Raises ValueError if an argument is wrong or a prompt does not fit, RuntimeError if the
        engine fails or was shut down.
        """
        prompts, single = self._prompts(prompt, input_ids, input_embeds)
        wishes = LogprobWish.each(return_logprob, logprob_start_len, top_logprobs_num, len(prompts))
        processors = self._processors(custom_logit_processor, len(prompts))
        outputs = self._begin(prompts, sampling_params, wishes, processors, return_hidden_states)
        single = single and len(outputs) == 1
        if stream:
            return self._stream(outputs, with_index=not single)
        for _ in self._run(outputs, stream_interval=0):
            pass
        answers = [self._shown(NativeAnswer(output)) for output in outputs]
        return answers[0] if single else answers

    def encode(
        self,
        prompt: str | tuple[str, str] | list[str | tuple[str, str]] | None = None,
        input_ids: list[int] | list[list[int]] | None = None,
    ) -> Any:
        """What an embedding or classification model makes of one text, or of each of a list.

        A tuple is a pair of texts, for models that read two as one. Returns a dict for one text and
        a list of dicts for a list: "embedding", a list of numbers, and "meta_info" with id,
        prompt_tokens and cached_tokens. A classifier's numbers are its logits.

        Raises ValueError if an argument is wrong or a text does not fit, or for a model that
        generates; RuntimeError if the engine fails or was shut down.
        """
        inputs, single = self._inputs(prompt, input_ids)
        for each in inputs:
            self._check_token_ids(each.input_ids)
        requests = [
            EmbedRequest(uuid.uuid4().hex, each.input_ids, each.token_type_ids) for each in inputs
        ]
        found = self._embed(requests)
        answers = [
            {
                "embedding": memoryview(found[request.rid].values).cast("f").tolist(),
                "meta_info": {
                    "id": request.rid,
                    "prompt_tokens": len(request.input_ids),
                    "cached_tokens": found[request.rid].cached_tokens,
                },
            }
            for request in requests
        ]
        return answers[0] if single else answers

    def flush_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing done, while a stream is running."""
        return self.scheduler.flush_cache()

    def finish_running(self) -> None:
        """Compute all answers of the streams that are open; they can be read on."""
        while not self.scheduler.is_idle:
            self._deliver(self.scheduler.step())

    def shutdown(self) -> None:
        """Give weights and KV memory back; streams cannot go on. May be called twice."""
        if self._live is not None:
            self._live.grammars.close()
        self._live = None
        self._end_ranks()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _end_ranks(self) -> None:
        if self._ranks is not None:
            self._ranks.close()

    # ===== what was asked =====

    def _prompts(
        self,
        prompt: str | list[str] | None,
        input_ids: list[int] | list[list[int]] | None,
        input_embeds: Any = None,
    ) -> tuple[list[_Prompt], bool]:
        """Each prompt, and whether it was one by itself, not a list."""
        if sum(given is not None for given in (prompt, input_ids, input_embeds)) != 1:
            raise ValueError("give either prompt, input_ids or input_embeds")
        if input_embeds is not None:
            embeds, single = embedded_prompts(input_embeds, self.info.hidden_size)
            return [_Prompt([0] * len(each), each) for each in embeds], single
        if prompt is not None:
            if self.tokenizer is None:
                raise ValueError("without a tokenizer (skip_tokenizer_init) give input_ids")
            texts = [prompt] if isinstance(prompt, str) else prompt
            return [_Prompt(self.tokenizer.encode(text)) for text in texts], isinstance(prompt, str)
        if input_ids and isinstance(input_ids[0], list):
            return [_Prompt(cast(list[int], ids)) for ids in input_ids], False
        return [_Prompt(cast(list[int], input_ids))], True

    def _processors(self, given: str | list[str | None] | None, count: int) -> list[str | None]:
        processors = one_each("custom_logit_processor", given, None, count)
        if any(processors) and not self.server_args.enable_custom_logit_processor:
            raise ValueError(
                "custom_logit_processor: make the engine with enable_custom_logit_processor=True"
            )
        return processors

    def _inputs(
        self,
        prompt: str | tuple[str, str] | list[str | tuple[str, str]] | None,
        input_ids: list[int] | list[list[int]] | None,
    ) -> tuple[list[ModelInput], bool]:
        """The same for an embedding model, which may read pairs of texts."""
        if (prompt is None) == (input_ids is None):
            raise ValueError("give either prompt or input_ids")
        if prompt is None or self.tokenizer is None:
            prompts, single = self._prompts(cast(Any, prompt), input_ids)
            return [ModelInput(each.token_ids) for each in prompts], single
        texts = prompt if isinstance(prompt, list) else [prompt]
        return self.tokenizer.encode_inputs(texts), not isinstance(prompt, list)

    def _begin(
        self,
        prompts: list[_Prompt],
        sampling_params: dict | list[dict] | None,
        wishes: list[LogprobWish | None],
        processors: list[str | None],
        return_hidden_states: bool,
    ) -> list[TextOutput]:
        """The answers to be, those to a prompt in a row; everything is checked here."""
        if isinstance(sampling_params, list):
            given = [SamplingOptions.of(each) for each in sampling_params]
        else:
            given = SamplingOptions.of(sampling_params)  # once for all
        options: list[SamplingOptions] = one_each("sampling_params", given, None, len(prompts))
        if not any(processors) and any(option.custom_params for option in options):
            raise ValueError("custom_params mean nothing without a custom_logit_processor")
        token_bytes = self.tokenizer.token_bytes if self.tokenizer else None
        requests: list[TextRequest] = []
        for (prompt, embeds), option, wish, processor in zip(
            prompts, options, wishes, processors, strict=True
        ):
            if option.stop_strings and token_bytes is None:
                raise ValueError("without a tokenizer (skip_tokenizer_init) there is no text: stop")
            if embeds is not None and wish is not None and wish.start_len >= 0:
                raise ValueError("input_embeds have no tokens to find log-probabilities of")
            self._check_token_ids(option.named_tokens)
            request = TextRequest(
                rid=uuid.uuid4().hex,
                input_ids=prompt,
                sampling=option.for_engine(self._room_after(prompt, option.max_new_tokens)),
                stop_strings=option.stop_strings,
                skip_special_tokens=option.skip_special_tokens,
                logprobs=wish and wish.options(len(prompt)),
                return_hidden_states=return_hidden_states or self.server_args.return_hidden_states,
                custom_logit_processor=processor,
                input_embeds=embeds,
            )
            requests += request.samples(option.n)
        return TextOutput.begin(requests, token_bytes)

    def _room_after(self, prompt: list[int], max_new_tokens: int | None) -> int:
        """How many tokens the answer to `prompt` can have; ValueError if it is no good prompt."""
        if not prompt:
            raise ValueError("the prompt has no tokens")
        self._check_token_ids(prompt)
        longest = min(self.info.context_length, self.info.max_total_tokens)
        least = 0 if max_new_tokens == 0 else 1
        if len(prompt) + least > longest:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens; with its answer it must fit in {longest}"
            )
        return longest - len(prompt)

    def _check_token_ids(self, ids: Collection[int]) -> None:
        size = self.info.vocab_size
        if ids and not 0 <= min(ids) <= max(ids) < size:
            raise ValueError(f"a token id is outside the vocabulary of {size} tokens")

    # ===== the loop =====

    def _run(self, outputs: list[TextOutput], stream_interval: int) -> Generator[TextOutput]:
        """Step until all of `outputs` have ended; yields each one whenever it has grown."""
        scheduler = self.scheduler
        running = {output.request.rid: output for output in outputs}
        inbox: list[TokenChunk] = []
        self._inboxes |= dict.fromkeys(running, inbox)
        try:
            for output in outputs:
                self._deliver(scheduler.add(output.request.for_engine(stream_interval)))
            while running:
                if not inbox:
                    self._deliver(self.scheduler.step())
                chunks = inbox.copy()
                inbox.clear()
                for chunk in chunks:
                    output = running.get(chunk.rid)
                    if output is None:  # a stop string matched in an earlier one of `chunks`
                        continue
                    output.push(chunk)
                    if output.finish is not None:
                        del running[chunk.rid]
                    if output.finish is not None and chunk.finish is None:
                        scheduler.abort(chunk.rid)
                    yield output
        except GenerationAborted as error:
            kind = ValueError if error.status < 500 else RuntimeError
            raise kind(str(error)) from error
        finally:
            for output in outputs:
                del self._inboxes[output.request.rid]
            for rid in running:
                scheduler.abort(rid)

    def _embed(self, requests: list[EmbedRequest]) -> dict[str, Embedding]:
        """Step until there is a vector for each of `requests`; returns them by request."""
        inbox: list[Embedding] = []
        found: dict[str, Embedding] = {}
        rids = [request.rid for request in requests]
        self._inboxes |= dict.fromkeys(rids, inbox)
        try:
            for request in requests:
                self._deliver(self.scheduler.add(request))
            while len(found) < len(requests):
                if not inbox:
                    self._deliver(self.scheduler.step())
                found |= {embedding.rid: embedding for embedding in inbox}
                failure = next((each.failure for each in inbox if each.failure), None)
                inbox.clear()
                if failure is not None:
                    kind = ValueError if failure.status < 500 else RuntimeError
                    raise kind(failure.message)
        finally:
            for rid in rids:
                del self._inboxes[rid]
                if rid not in found:
                    self.scheduler.abort(rid)
        return found

    def _deliver(self, answers: list[TokenChunk | Embedding]) -> None:
        """Sort a step's answers into the inboxes of the calls that wait for them."""
        for answer in answers:
            inbox = self._inboxes.get(answer.rid)
            if inbox is not None:  # None: ended while the step ran
                inbox.append(answer)

    def _stream(self, outputs: list[TextOutput], *, with_index: bool) -> Iterator[Answer]:
        answers = [NativeAnswer(output) for output in outputs]
        with contextlib.closing(self._run(outputs, self.server_args.stream_interval)) as grown:
            for output in grown:
                shown = self._shown(answers[output.index])
                yield shown | {"index": output.index} if with_index else shown

    def _shown(self, answer: NativeAnswer) -> Answer:
        meta_info = answer.meta_info()
        if "hidden_states" in meta_info:
            meta_info["hidden_states"] = list(map(torch.from_numpy, meta_info["hidden_states"]))
        output = answer.output
        shown = {"output_ids": output.output_ids.copy(), "meta_info": meta_info}
        return shown if self.tokenizer is None else {"text": output.text} | shown


def _load_tokenizer(server_args: ServerArgs) -> Tokenizer | None:
    if server_args.skip_tokenizer_init:
        return None
    template = server_args.chat_template
    return load_tokenizer(
        resolve_model_path(server_args.tokenizer_path or server_args.model_path),
        load_chat_template(template) if template else None,
    )
