"""Server arguments: every option of a worker, defined once, with its default, group and help."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

API_KEY_VARIABLE = "RADIXFLEET_API_KEY"


def _option(
    group: str, default: Any, help: str, *, choices: Sequence[str] | None = None, **extra: Any
) -> Any:
    metadata = {"group": group, "help": help, "choices": choices, **extra}
    return field(default=default, metadata=metadata)


def positive_int(text: str) -> int:
    """For argparse: an integer from 1 on."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, or 0, not {text}")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 65535, not {text}")
    return value


def _gpu_id(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, and is {text}")
    return value


def _chunk_size(text: str) -> int:
    value = int(text)
    if value == 0 or value < -1:
        raise argparse.ArgumentTypeError(
            f"must be a positive integer, or -1 for no chunks, not {text}"
        )
    return value


MODEL = "Model and tokenizer"
HTTP = "HTTP server"
MEMORY = "Memory and scheduling"
RUNTIME = "Runtime"
LOGGING = "Logging"


@dataclass(frozen=True)
class ServerArgs:
    """What a worker is told at its start. Names and meanings follow SGLang 0.4.3's flags.

    Raises ValueError for a value that is not among an option's choices.
    """

    model_path: str = _option(
        MODEL,
        "smollm2-135m",
        "A folder with config.json, safetensors and tokenizer files, a .gguf file, or the name of "
        "an embedded model (smollm2-135m, all-minilm-l6-v2), which is downloaded once.",
    )
    tokenizer_path: str | None = _option(
        MODEL,
        None,
        "Where the tokenizer is, if not with the model.",
        shown_default="the model path",
    )
    skip_tokenizer_init: bool = _option(
        MODEL,
        False,
        "Load no tokenizer: /generate takes input_ids and answers with token_ids; there are no "
        "routes for text.",
    )
    return_hidden_states: bool = _option(
        MODEL, False, "Return hidden states with every answer of /generate."
    )
    served_model_name: str | None = _option(
        MODEL, None, "The name that /v1/models reports.", shown_default="the model path"
    )
    chat_template: str | None = _option(
        MODEL,
        None,
        "A chat template: a file with a Jinja one or with SGLang's JSON form, the name of a known "
        "one (chatml, hermes, llama-2, llama-3-instruct, vicuna_v1.1), or the Jinja text itself.",
        shown_default="the tokenizer's own",
    )
    tool_call_parser: str | None = _option(
        MODEL,
        None,
        "How the model writes calls of tools; chats take tools with it alone.",
        choices=(
            "llama3",
            "mistral",
            "qwen25",
            "deepseekv3",
            "deepseekv31",
            "pythonic",
            "kimi_k2",
            "glm45",
            "qwen3_coder",
        ),
        shown_default="none",
    )
    reasoning_parser: str | None = _option(
        MODEL,
        None,
        "How the model writes its reasoning; chats answer with it apart from the text.",
        choices=("deepseek-r1", "deepseek-v3", "qwen3", "qwen3-thinking", "glm45", "kimi"),
        shown_default="none",
    )
    load_format: str = _option(
        MODEL,
        "auto",
        "Format of the weights. 'dummy' makes random ones: for measuring speed.",
        choices=("auto", "safetensors", "gguf", "dummy"),
    )
    dtype: str = _option(
        MODEL,
        "auto",
        "Type of weights and activations. 'auto' is bfloat16 where the device multiplies in it, "
        "else float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str | None = _option(
        MODEL,
        None,
        "Quantize the weights of linear layers when they are loaded: to FP8, a scale for each "
        "output, with activations quantized as they come.",
        choices=("fp8",),
        shown_default="none",
    )
    kv_cache_dtype: str = _option(
        MODEL,
        "auto",
        "Type of the KV cache. 'auto' is the model's; FP8 holds twice as many tokens.",
        choices=("auto", "fp8_e4m3", "fp8_e5m2"),
    )
    is_embedding: bool = _option(
        MODEL,
        False,
        "Serve a model that could generate as an embedding model. Models that can only embed or "
        "classify are served so without it.",
    )
    context_length: int | None = _option(
        MODEL,
        None,
        "The longest request, prompt and answer together, in tokens.",
        parse=positive_int,
        shown_default="the model's own",
    )
    device: str = _option(
        MODEL,
        "auto",
        "Where the model runs. 'auto' is cuda if there is one, else cpu.",
        choices=("auto", "cpu", "cuda"),
    )
    random_seed: int | None = _option(
        MODEL, None, "Seed of sampling and of dummy weights.", parse=int, shown_default="random"
    )

    host: str = _option(HTTP, "127.0.0.1", "Address to listen on.")
    port: int = _option(HTTP, 30000, "Port to listen on; 0 takes a free one.", parse=_port)
    api_key: str | None = _option(
        HTTP,
        None,
        "Key that requests must carry as 'Authorization: Bearer KEY'. Better given in the "
        "environment, as RADIXFLEET_API_KEY: command lines can be seen by everybody.",
        shown_default="none",
        environment=API_KEY_VARIABLE,
    )
    cors_allow_origins: Sequence[str] | None = _option(
        HTTP,
        None,
        "Origins whose pages may use this server from a browser, such as https://chat.example; * "
        "for all.",
        nargs="+",
        shown_default="none",
    )
    enable_cache_report: bool = _option(
        HTTP, False, "Report cached prompt tokens in the usage of OpenAI responses."
    )
    file_storage_path: str = _option(
        HTTP,
        "sglang_storage",
        "Folder for what clients have the server keep; workers of one host can share it.",
        aliases=("--file-storage-pth",),
    )
    request_timeout: float = _option(
        HTTP,
        3600.0,
        "End a request that is not answered to its last token so many seconds after it came; 0 for "
        "never.",
        parse=_seconds,
    )
    allow_auto_truncate: bool = _option(
        HTTP, False, "Cut prompts that are longer than the context instead of refusing them."
    )

    mem_fraction_static: float = _option(
        MEMORY,
        0.9,
        "Share of the device's free memory for weights and KV cache. On CPU, the KV cache is also "
        "held to 4 GiB unless --max-total-tokens says otherwise.",
        parse=_fraction,
    )
    max_total_tokens: int | None = _option(
        MEMORY,
        None,
        "Size of the KV cache in tokens.",
        parse=positive_int,
        shown_default="from free memory",
    )
    max_running_requests: int | None = _option(
        MEMORY,
        None,
        "How many requests may run at the same time.",
        parse=positive_int,
        shown_default="256 on CPU, 4096 on GPU",
    )
    max_queued_requests: int | None = _option(
        MEMORY,
        None,
        "How many requests may wait; those that come after get a 503 with Retry-After.",
        parse=positive_int,
        shown_default="no limit",
    )
    max_prefill_tokens: int = _option(
        MEMORY,
        16384,
        "Token budget of one prefill batch; the context length, if that is more.",
        parse=positive_int,
    )
    chunked_prefill_size: int | None = _option(
        MEMORY,
        None,
        "Prefill long prompts in chunks of this many tokens; -1 turns chunks off.",
        parse=_chunk_size,
        shown_default="512 on CPU; 8192 on GPU, 2048 while far more requests decode than wait",
    )
    enable_mixed_chunk: bool = _option(
        MEMORY, False, "Decode running requests in the same batch as a prefill chunk."
    )
    schedule_policy: str = _option(
        MEMORY,
        "lpm",
        "Order of waiting requests: longest cached prefix first, or first come first served.",
        choices=("lpm", "fcfs"),
    )
    schedule_conservativeness: float = _option(
        MEMORY,
        1.0,
        "Above 1, admit fewer requests at once and retract fewer; below 1, the reverse.",
        parse=float,
    )
    page_size: int = _option(MEMORY, 1, "Tokens in a page of the KV cache.", parse=positive_int)
    disable_radix_cache: bool = _option(
        MEMORY, False, "Do not reuse the KV cache of shared prefixes."
    )

    tp_size: int = _option(
        RUNTIME,
        1,
        "Tensor-parallel size: how many GPUs, or processes on CPU, compute the model together.",
        parse=positive_int,
        aliases=("--tp", "--tensor-parallel-size"),
    )
    disable_custom_all_reduce: bool = _option(
        RUNTIME,
        False,
        "With tensor parallelism, leave sums of small tensors to NCCL, too, instead of having the "
        "GPUs read each other's memory.",
    )
    base_gpu_id: int = _option(
        RUNTIME,
        0,
        "The first GPU to use; with tensor parallelism those that follow are used too.",
        parse=_gpu_id,
    )
    attention_backend: str | None = _option(
        RUNTIME,
        None,
        "Attention kernels. FlashInfer's are compiled on a machine's first start, which takes half "
        "a minute, for flashinfer_fa3 over five.",
        choices=("torch_native", "triton", "flashinfer", "flashinfer_fa3"),
        shown_default="torch_native on CPU, triton on GPU",
    )
    disable_prefix_sharing: bool = _option(
        RUNTIME,
        False,
        "Read a prefix that running requests share once for each of them, not once for all. For "
        "debugging.",
    )
    disable_overlap_schedule: bool = _option(
        RUNTIME,
        False,
        "On a GPU, form a batch only when the one before is computed. Costs speed; for debugging.",
    )
    disable_fused_decode: bool = _option(
        RUNTIME,
        False,
        "On a GPU, compute steps of few tokens with the kernels of larger ones. Costs speed; for "
        "debugging.",
    )
    disable_cuda_graph: bool = _option(
        RUNTIME, False, "Launch each kernel of a decode step by itself. Costs speed; for debugging."
    )
    cuda_graph_max_bs: int | None = _option(
        RUNTIME,
        None,
        "Largest batch that decodes in a CUDA graph.",
        parse=positive_int,
        shown_default="512",
    )
    cuda_graph_bs: Sequence[int] | None = _option(
        RUNTIME,
        None,
        "Batch sizes to capture in CUDA graphs.",
        parse=positive_int,
        nargs="+",
        shown_default="chosen up to --cuda-graph-max-bs",
    )
    num_threads: int | None = _option(
        RUNTIME,
        None,
        "CPU threads of the model's computation, divided among tensor-parallel processes.",
        parse=positive_int,
        shown_default="all cores that the process may use",
    )
    stream_interval: int = _option(
        RUNTIME, 1, "Stream after every so many tokens; the first one at once.", parse=positive_int
    )
    watchdog_timeout: float = _option(
        RUNTIME,
        300.0,
        "End a scheduler that has requests and starts no step for so many seconds, with the stacks "
        "of its threads in the log; 0 for never.",
        parse=_seconds,
    )

    grammar_backend: str = _option(
        RUNTIME,
        "xgrammar",
        "Library for JSON schemas, regular expressions and grammars that answers are held to.",
        choices=("xgrammar", "llguidance", "outlines"),
    )
    disable_jump_forward: bool = _option(
        RUNTIME,
        False,
        "Have the model say what a grammar leaves no choice about, token by token. For debugging.",
    )
    enable_custom_logit_processor: bool = _option(
        RUNTIME,
        False,
        "Let clients of /generate send logit processors: Python that runs in the engine, with all "
        "that it may do. Only for clients that are trusted.",
    )

    log_level: str = _option(
        LOGGING, "info", "Verbosity.", choices=("debug", "info", "warning", "error")
    )
    log_level_http: str | None = _option(
        LOGGING,
        None,
        "Verbosity of the HTTP server.",
        choices=("debug", "info", "warning", "error"),
        shown_default="warning",
    )
    log_requests: bool = _option(
        LOGGING,
        False,
        "Log prompts and answers, long ones without their middle. They can hold private data.",
    )
    enable_metrics: bool = _option(
        LOGGING, False, "Serve metrics for Prometheus at GET /metrics, under SGLang's names."
    )
    decode_log_interval: int = _option(
        LOGGING, 40, "Log load and throughput after every so many decode steps.", parse=positive_int
    )

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            if choices is not None and value not in (option.default, *choices):
                raise ValueError(f"{option.name} is {value!r}, and not one of {', '.join(choices)}")

    def url(self) -> str:
        """The address of this worker as a client writes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def to_json(self) -> str:
        """For handing over to a child process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerArgs:
        """The reverse of `to_json`."""
        return cls(**json.loads(text))

    @classmethod
    def add_cli_arguments(
        cls, parser: argparse.ArgumentParser, *, skip: Sequence[str] = ()
    ) -> None:
        """Add one flag a field to `parser`, grouped; leaves out the fields named in `skip`."""
        groups: dict[str, Any] = {}
        types = get_type_hints(cls)
        for option in dataclasses.fields(cls):
            if option.name in skip:
                continue
            title = option.metadata["group"]
            group = groups.get(title)
            if group is None:
                group = groups[title] = parser.add_argument_group(title)
            _add_flag(group, option, types[option.name])

    @classmethod
    def from_cli(cls, parsed: argparse.Namespace) -> ServerArgs:
        """Build from what `add_cli_arguments` parsed; attributes of others are passed over."""
        names = (option.name for option in dataclasses.fields(cls))
        return cls(**{name: getattr(parsed, name) for name in names if hasattr(parsed, name)})

    def with_weights(self, model_path: str, load_format: str) -> ServerArgs:
        """The same with other weights; the tokenizer stays where it was."""
        return dataclasses.replace(
            self,
            model_path=model_path,
            load_format=load_format,
            tokenizer_path=self.tokenizer_path or self.model_path,
        )

    def to_cli(self) -> list[str]:
        """The flags that make these arguments again; those at their default are left out.

        So are those that the environment can carry: they are secrets.
        """
        flags: list[str] = []
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if value == option.default or "environment" in option.metadata:
                continue
            flag = "--" + option.name.replace("_", "-")
            if "nargs" in option.metadata:
                flags += [flag, *map(str, value)]
            else:  # joined, since a value may begin with a dash
                flags.append(flag if value is True else f"{flag}={value}")
        return flags


def _add_flag(group: Any, option: dataclasses.Field, annotation: Any) -> None:
    metadata = option.metadata
    flags = ["--" + option.name.replace("_", "-"), *metadata.get("aliases", ())]
    if annotation is bool:
        group.add_argument(
            *flags, action="store_true", default=option.default, help=metadata["help"]
        )
        return
    shown = metadata.get("shown_default", option.default)
    parse: Callable[[str], Any] = metadata.get("parse", str)
    extra: dict[str, Any] = {}
    if metadata["choices"]:
        extra["choices"] = metadata["choices"]
    else:
        extra["metavar"] = option.name.rsplit("_", 1)[-1].upper()
    if "nargs" in metadata:
        extra["nargs"] = metadata["nargs"]
    help_text = f"{metadata['help']} Default: {shown}.".replace("%", "%%")
    default = os.environ.get(metadata.get("environment", ""), option.default)
    group.add_argument(*flags, type=parse, default=default, help=help_text, **extra)
