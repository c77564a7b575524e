"""The structs that cross process boundaries. Imports nothing of the project.

The HTTP process and the scheduler process meet here and nowhere else. Messages travel as msgpack
over ZeroMQ, one struct a frame; the unions at the end say which may travel in which direction.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]


# What refusals of a structural tag's `otherwise` begin with, behind the kind of the grammar.
OTHERWISE = "text without structures: "


class GrammarSpec(msgspec.Struct, frozen=True, array_like=True):
    """What an answer is held to: a JSON schema, a regular expression for the whole of it, a
    grammar in EBNF with the rule `root`, or a structural tag, as JSON: its `structures` (objects of
    `begin`, `schema` and `end`), its `triggers`, and maybe `stop_after_first`, `separators` and
    `otherwise`.
    """

    kind: Literal["json_schema", "regex", "ebnf", "structural_tag"]
    text: str

    @classmethod
    def among(
        cls,
        json_schema: str | None,
        regex: str | None,
        ebnf: str | None,
        structural_tag: str | None,
    ) -> list[GrammarSpec]:
        """Those that are given."""
        given = (
            json_schema is not None and cls("json_schema", json_schema),
            regex is not None and cls("regex", regex),
            ebnf is not None and cls("ebnf", ebnf),
            structural_tag is not None and cls("structural_tag", structural_tag),
        )
        return [spec for spec in given if spec]


class Reasoning(msgspec.Struct, frozen=True, array_like=True):
    """Text before what a grammar says: from the tag `start` up to the tag `end`, or not at all.

    With `is_open` an answer is inside of it from its first token on.
    """

    start: str
    end: str
    is_open: bool


class SamplingParams(msgspec.Struct, frozen=True, array_like=True):
    """How the next token of one request is chosen, and when the request ends.

    `temperature` 0 means greedy. `top_k` -1 means all tokens. `stop_token_ids` end a request also
    when `ignore_eos` is set. Stop strings are not here: the HTTP process, which has the text,
    watches for them. `logit_bias` [(token, value)] is added to logits; before `min_new_tokens` are
    there no stop token comes. With `max_new_tokens` 0 the request ends when its prompt is computed.
    `custom_params` are for the request's custom logit processor. An answer with a `grammar` ends
    where that allows it, and at the latest where it allows nothing else; its `reasoning` comes
    before, and is free.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    custom_params: dict[str, Any] | None = None
    grammar: GrammarSpec | None = None
    reasoning: Reasoning | None = None

    @property
    def has_penalties(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return bool(
            self.frequency_penalty
            or self.presence_penalty
            or self.repetition_penalty != 1.0
            or self.min_new_tokens
            or self.logit_bias
        )


class LogprobOptions(msgspec.Struct, frozen=True, array_like=True):
    """Which log-probabilities a request wants: natural logarithms, from raw logits in float32.

    Those of the answer's tokens; with `prompt_start`, also those of the prompt's tokens from that
    place on (a prompt's first token, at place 0, has none). At each place also those of the `top`
    likeliest tokens, and those of `token_ids`.
    """

    prompt_start: int | None = None
    top: int = 0
    token_ids: tuple[int, ...] = ()


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at places in a row: [places] each, or empty where none were asked for.

    `chosen` are those of the tokens that stand there; `top` the likeliest ones, best first, as
    [(token, value)]; `wanted` those of `LogprobOptions.token_ids`, in that order.
    """

    chosen: list[float]
    top: list[list[tuple[int, float]]] = []
    wanted: list[list[float]] = []


class InputEmbeds(msgspec.Struct, frozen=True, array_like=True):
    """A prompt given as the numbers that the model would look up for its tokens.

    `rows` [tokens, hidden size] float32; `digests` has DIGEST_BYTES of each, by which the engine
    knows equal rows.
    """

    DIGEST_BYTES: ClassVar[int] = 16

    rows: bytes
    digests: bytes

    def __len__(self) -> int:
        """Tokens."""
        return len(self.digests) // self.DIGEST_BYTES

    def last(self, tokens: int) -> InputEmbeds:
        """The end of it, `tokens` long."""
        row_bytes = len(self.rows) // len(self)
        first = len(self) - tokens
        return InputEmbeds(
            self.rows[first * row_bytes :], self.digests[first * self.DIGEST_BYTES :]
        )


class GenerateRequest(msgspec.Struct, frozen=True, array_like=True, tag="generate"):
    """A checked request: the prompt fits the context together with `max_new_tokens`.

    The first token is sent at once. `stream_interval` is how many of the others may gather before
    they are sent; 0 sends them only at the end. `custom_logit_processor` is a pickled class, as
    `CustomLogitProcessor.to_str` makes it. With `input_embeds` only the number of `input_ids`
    counts: there is one for each row.
    """

    rid: str
    input_ids: list[int]
    sampling: SamplingParams
    stream_interval: int = 1
    logprobs: LogprobOptions | None = None
    return_hidden_states: bool = False
    custom_logit_processor: str | None = None
    input_embeds: InputEmbeds | None = None


class EmbedRequest(msgspec.Struct, frozen=True, array_like=True, tag="embed"):
    """A checked text for an embedding or classification model, which answers with an `Embedding`.

    `token_type_ids` [tokens] tell the two texts of a pair apart. Models with one type pass over
    them.
    """

    rid: str
    input_ids: list[int]
    token_type_ids: list[int] | None = None


class AbortRequest(msgspec.Struct, frozen=True, array_like=True, tag="abort"):
    """End a request now: its client is gone, or a stop string was met. No answer is sent."""

    rid: str


class FlushCache(msgspec.Struct, frozen=True, array_like=True, tag="flush"):
    """Empty the radix cache. Answered by `FlushDone`."""

    rid: str


class GetState(msgspec.Struct, frozen=True, array_like=True, tag="get_state"):
    """Ask how the scheduler does. Answered by `SchedulerState`."""

    rid: str


class UpdateWeights(msgspec.Struct, frozen=True, array_like=True, tag="update_weights"):
    """Serve the weights at `model_path` from now on: a path, or the name of an embedded model.

    Like all orders that need an idle engine it is carried out when the requests before it have
    ended, and those behind it wait. Answered by `OrderDone`.
    """

    rid: str
    model_path: str
    load_format: str = "auto"


class ReleaseMemory(msgspec.Struct, frozen=True, array_like=True, tag="release_memory"):
    """Give back weights and KV cache; needs an idle engine. Until `ResumeMemory`, requests are
    refused with 503. Answered by `OrderDone`.
    """

    rid: str


class ResumeMemory(msgspec.Struct, frozen=True, array_like=True, tag="resume_memory"):
    """Undo `ReleaseMemory`. Answered by `OrderDone`."""

    rid: str


class GetWeight(msgspec.Struct, frozen=True, array_like=True, tag="get_weight"):
    """Ask for the first `rows` rows, or numbers of a vector, of the checkpoint's tensor `name`.

    Answered by `WeightValues`, or by `OrderDone` when there are none.
    """

    rid: str
    name: str
    rows: Count


class StartProfile(msgspec.Struct, frozen=True, array_like=True, tag="start_profile"):
    """Trace what the engine does, on every rank; the files' names begin with `name`.

    `folder` None is $SGLANG_TORCH_PROFILER_DIR, or else where temporary files go. With `num_steps`
    the trace ends by itself. No `activities` are all that the device has. Answered by `OrderDone`.
    """

    rid: str
    name: str
    folder: str | None = None
    num_steps: Count | None = None
    activities: tuple[Literal["CPU", "GPU"], ...] = ()
    with_stack: bool = False
    record_shapes: bool = False


class StopProfile(msgspec.Struct, frozen=True, array_like=True, tag="stop_profile"):
    """End the trace. Answered by `OrderDone`, with its files, once they are written."""

    rid: str


class FinishReason(msgspec.Struct, frozen=True, array_like=True):
    """Why a request ended: `matched` is the token id for "stop"; `message` says why for "abort".

    `status` is that of the answer over HTTP to "abort"; below 400, somebody wanted the request to
    end, and is not to get an error for it. `of_grammar`: the request's grammar is at fault.
    """

    kind: Literal["stop", "length", "abort"]
    matched: int | None = None
    message: str | None = None
    status: int = 500
    of_grammar: bool = False

    @classmethod
    def bad_grammar(cls, message: str) -> FinishReason:
        """The grammar cannot be used, or the answer does not keep to it."""
        return cls("abort", message=message, status=400, of_grammar=True)

    @property
    def is_failure(self) -> bool:
        """Whether the answer is an error instead of what there was."""
        return self.kind == "abort" and self.status >= 400


class TokenChunk(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one request since its last chunk. `finish` is None while it runs on.

    `logprobs` has one place for each of `token_ids`; `prompt_logprobs`, in the first chunk, one for
    each token of the prompt from the asked place on, but for a first token of all. `hidden_states`
    are float32 rows [n, hidden size] from before the head: in the first chunk one for each token
    of the prompt, then one for each new token but the first, the row it was chosen from.
    """

    rid: str
    token_ids: list[int]
    cached_tokens: int
    finish: FinishReason | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: TokenLogprobs | None = None
    hidden_states: bytes | None = None


class TokenChunks(msgspec.Struct, frozen=True, array_like=True, tag="tokens"):
    """What one step of the engine produced, all requests together."""

    chunks: list[TokenChunk]


class Embedding(msgspec.Struct, frozen=True, array_like=True):
    """The answer to an `EmbedRequest`: float32 numbers, or why there are none (`failure`)."""

    rid: str
    values: bytes = b""
    cached_tokens: int = 0
    failure: FinishReason | None = None


class Embeddings(msgspec.Struct, frozen=True, array_like=True, tag="embeddings"):
    """What one step of an embedding engine produced, all requests together."""

    embeddings: list[Embedding]


class FlushDone(msgspec.Struct, frozen=True, array_like=True, tag="flush_done"):
    """`success` is False when requests were running, and the cache was left alone."""

    rid: str
    success: bool


class OrderDone(msgspec.Struct, frozen=True, array_like=True, tag="order_done"):
    """An order was carried out or, without `success`, could not be; `message` is for the user."""

    rid: str
    success: bool
    message: str
    files: tuple[str, ...] = ()


class WeightValues(msgspec.Struct, frozen=True, array_like=True, tag="weight"):
    """Numbers of a weight of `shape`, in float32, row by row."""

    rid: str
    shape: tuple[int, ...]
    values: bytes


class SchedulerState(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    """Counts at one moment. Token counts are KV slots: free + cached + held = total.

    `used_tokens` are those that running requests need: held, or cached and locked.
    `generation_throughput` is in tokens a second, measured over some steps; 0 when idle.
    `forced_tokens_total` are those of the generated ones that a grammar forced.
    """

    rid: str
    running_requests: int
    waiting_requests: int
    total_tokens: int
    free_tokens: int
    cached_tokens: int
    held_tokens: int
    used_tokens: int
    prompt_tokens_total: int
    cached_prompt_tokens_total: int
    generated_tokens_total: int
    retractions_total: int
    generation_throughput: float
    forced_tokens_total: int = 0


class LoadProgress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """How far the start, or a long order, is. `fraction` lies between 0 and 1."""

    stage: str
    fraction: float


class EmbeddingInfo(msgspec.Struct, frozen=True, array_like=True):
    """What an embedding engine answers with: vectors of `size` numbers.

    "embedding": a point in space, of length 1 if `normalized`. "classification": a score or logit
    for each of `labels`, which may have no names: then there is one score, a reward. `pairs` says
    that the model reads two texts in one (a cross-encoder).
    """

    kind: Literal["embedding", "classification"]
    size: int
    normalized: bool = False
    labels: tuple[str, ...] = ()
    pairs: bool = False


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The engine takes requests. `context_length` is in tokens, prompt and answer together.

    Of several tensor-parallel ranks, device and bytes are those of rank 0. `embedding` is None for
    a model that generates. `hidden_size` is the width of its token embeddings.
    """

    context_length: int
    max_total_tokens: int
    max_running_requests: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    device: str
    weights_bytes: int
    kv_cache_bytes: int
    embedding: EmbeddingInfo | None = None
    hidden_size: int = 0


class StartFailed(msgspec.Struct, frozen=True, array_like=True, tag="start_failed"):
    """The engine could not start; `error` is one line for the user."""

    error: str


IdleOrder = UpdateWeights | ReleaseMemory | ResumeMemory
ControlOrder = IdleOrder | GetWeight | StartProfile | StopProfile
ControlAnswer = OrderDone | WeightValues
ToScheduler = GenerateRequest | EmbedRequest | AbortRequest | FlushCache | GetState | ControlOrder
FromScheduler = (
    TokenChunks
    | Embeddings
    | FlushDone
    | SchedulerState
    | ControlAnswer
    | LoadProgress
    | Ready
    | StartFailed
)
