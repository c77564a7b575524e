"""The grammars that a scheduler has at hand, and the requests that wait for others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from ..config import ServerArgs
from ..embedded_models import resolve_model_path
from ..grammar.base import CompiledGrammar, GrammarError, Vocabulary
from ..grammar.compiler import Compiled, CompilerAnswer, GrammarCompiler, LoadedBackend, loaded
from ..grammar.constraint import SLOW_TO_FOLLOW, Constraint, look_ahead, write_masks
from ..grammar.jump_forward import JumpForward
from ..grammar.mask_filler import MaskFiller
from ..grammar.reasoning import AfterReasoning, ReasoningTokens
from ..messages import FinishReason, GrammarSpec, Reasoning
from ..tokenization.tokenizer import Tokenizer, load_tokenizer
from .request import Request

# How many grammars there may be, and how many bytes as they were compiled; loaded they are smaller.
_KEPT_BYTES = 512 << 20
_KEPT = 1024
# What slow masks of one answer may take, in seconds of CPU time: all requests of a batch wait.
_SLOW_SECONDS = 0.5
# Characters of one grammar.
_LONGEST = 1 << 20

_NO_TOKENIZER = "Without a tokenizer no answer can be held to a grammar."


class _Known(NamedTuple):
    """`size` in bytes, as it was compiled."""

    grammar: CompiledGrammar | GrammarError
    size: int


class Grammars:
    """The last ones used, bad ones among them, so that nobody compiles the same again.

    Without a `backend` there are none. A follower of other ranks has no `compiler`: it is told what
    was compiled, in the order that all ranks know. With `encode`, which makes tokens of a text,
    answers jump forward over what their grammar forces.
    """

    def __init__(
        self,
        backend: LoadedBackend | None = None,
        compiler: GrammarCompiler | None = None,
        filler: MaskFiller | None = None,
        encode: Callable[[str], list[int]] | None = None,
    ) -> None:
        self._backend = backend
        self._compiler = compiler
        self._filler = filler or MaskFiller()
        self._encode = encode
        self._known: OrderedDict[GrammarSpec, _Known] = OrderedDict()
        self._known_bytes = 0
        self._waiting: dict[GrammarSpec, list[Request]] = {}
        self._waiting_count = 0
        self._slow: list[Constraint] = []
        self._reasoning: dict[Reasoning, ReasoningTokens] = {}  # a worker's clients have few

    @classmethod
    def of(
        cls,
        args: ServerArgs,
        vocab_size: int,
        eos_token_ids: Collection[int],
        *,
        compiles: bool,
    ) -> Grammars:
        """For a model of `vocab_size` tokens; of several ranks only the first one compiles."""
        if args.skip_tokenizer_init:
            return cls()

        @cache
        def tokenizer() -> Tokenizer:
            return load_tokenizer(resolve_model_path(args.tokenizer_path or args.model_path))

        def vocabulary() -> Vocabulary:
            token_bytes = tokenizer().token_bytes
            texts = [token for token in range(vocab_size) if token not in eos_token_ids]
            shown = {token: token_bytes.of(token, True) for token in texts}
            hidden = {token: token_bytes.of(token, False) for token in texts if not shown[token]}
            return Vocabulary(
                [shown.get(token, b"") for token in range(vocab_size)],
                special={token: text for token, text in hidden.items() if text},
            )

        def encode(text: str) -> list[int]:
            return tokenizer().encode(text, add_special_tokens=False)

        backend = LoadedBackend(args.grammar_backend, vocabulary)
        return cls(
            backend,
            GrammarCompiler(backend) if compiles else None,
            MaskFiller.for_rank(args.num_threads, args.tp_size),
            None if args.disable_jump_forward else encode,
        )

    def __len__(self) -> int:
        """How many requests wait."""
        return self._waiting_count

    def __contains__(self, request: Request) -> bool:
        """Whether `request` waits."""
        spec = request.sampling.grammar
        return spec is not None and request in self._waiting.get(spec, ())

    def begin(self, request: Request) -> None:
        """Hold `request` to its grammar, if it has one, or have it wait for that.

        It is finished if the grammar is bad, or allows nothing.
        """
        spec = request.sampling.grammar
        if spec is None:
            return
        reason = self._refusal(spec)
        if reason is not None:
            request.finish = FinishReason.bad_grammar(reason)
        elif spec in self._known:
            self._known.move_to_end(spec)
            self._constrain(request, self._known[spec].grammar)
        else:
            if spec not in self._waiting and self._compiler is not None:
                self._compiler.submit(spec)
            self._waiting.setdefault(spec, []).append(request)
            self._waiting_count += 1

    def drop(self, request: Request) -> None:
        """`request` need not wait any more, and if nobody else does, its grammar is forgotten."""
        spec = request.sampling.grammar
        assert spec is not None
        requests = self._waiting[spec]
        requests.remove(request)
        self._waiting_count -= 1
        if not requests:
            del self._waiting[spec]
            if self._compiler is not None:
                self._compiler.forget(spec)

    def finished(self, wait_seconds: float) -> list[Compiled]:
        """What was compiled since the last call; waits a little if that is nothing yet."""
        return [] if self._compiler is None else self._compiler.finished(wait_seconds)

    def take(self, compiled: Compiled) -> list[Request]:
        """A grammar is known, or was and is bad; returns those who waited for it, as `begin`
        leaves them.
        """
        if compiled.answer.is_final:
            self._keep(compiled)
        requests = self._waiting.pop(compiled.spec, [])
        self._waiting_count -= len(requests)
        for request in requests:
            self._constrain(request, compiled.grammar)
            if not compiled.answer.is_final:
                message = str(compiled.grammar)
                request.finish = FinishReason("abort", message=message, status=503)
        return requests

    def _keep(self, compiled: Compiled) -> None:
        size = len(compiled.answer.compiled)
        if compiled.spec in self._known:
            self._known_bytes -= self._known.pop(compiled.spec).size
        self._known[compiled.spec] = _Known(compiled.grammar, size)
        self._known_bytes += size
        while len(self._known) > _KEPT or self._known_bytes > _KEPT_BYTES:
            _, oldest = self._known.popitem(last=False)
            self._known_bytes -= oldest.size

    def loaded(self, spec: GrammarSpec, answer: CompilerAnswer) -> Compiled:
        """What rank 0's compiler has made."""
        assert self._backend is not None
        return Compiled(spec, answer, loaded(self._backend.get(), answer))

    @property
    def mask_words(self) -> int:
        """Length of a mask, in int32; there must be a backend."""
        assert self._backend is not None
        return self._backend.vocabulary.mask_words

    def look_ahead(self, constraints: list[Constraint]) -> None:
        """Find out together what may come next in those that have gone on."""
        self._note(look_ahead(constraints, self._filler))

    def write_masks(self, constraints: list[Constraint], masks: np.ndarray) -> None:
        """Write what may come next in each of them: [constraints, mask_words] int32."""
        self._note(write_masks(constraints, masks, self._filler))

    def _note(self, slow: list[Constraint]) -> None:
        """Time is not the same on all ranks: it is for the first one to decide."""
        if self._compiler is not None:
            self._slow += slow

    def too_slow(self, requests: Iterable[Request]) -> list[Compiled]:
        """Grammars whose masks have taken too long in one of `requests`, as bad ones."""
        if not self._slow:
            return []
        slow = {id(each) for each in self._slow if each.slow_seconds > _SLOW_SECONDS}
        self._slow.clear()
        specs = {each.sampling.grammar for each in requests if id(each.constraint) in slow}
        reasons = {spec: f"{spec.kind}: {SLOW_TO_FOLLOW}" for spec in specs if spec is not None}
        return [
            Compiled(spec, CompilerAnswer(error=reason), GrammarError(reason))
            for spec, reason in reasons.items()
        ]

    def close(self) -> None:
        """End the compiler."""
        if self._compiler is not None:
            self._compiler.close()

    @cached_property
    def _jump_forward(self) -> JumpForward | None:
        """Made with the first grammar, when there is a tokenizer."""
        if self._encode is None or self._backend is None:
            return None
        return JumpForward(self._backend.vocabulary, self._encode)

    def _refusal(self, spec: GrammarSpec) -> str | None:
        if self._backend is None:
            return _NO_TOKENIZER
        if len(spec.text) > _LONGEST:
            return f"{spec.kind}: it has {len(spec.text)} characters; at most {_LONGEST} may be."
        return None

    def _constrain(self, request: Request, grammar: CompiledGrammar | GrammarError) -> None:
        if isinstance(grammar, GrammarError):
            request.finish = FinishReason.bad_grammar(str(grammar))
            return
        assert self._backend is not None
        vocabulary = self._backend.vocabulary
        if reasoning := request.sampling.reasoning:
            grammar = AfterReasoning(grammar, self._tokens_of(reasoning))
        request.constraint = Constraint(
            grammar, vocabulary, request.stop_token_ids, self._jump_forward
        )
        request.finish = request.constraint.finish

    def _tokens_of(self, reasoning: Reasoning) -> ReasoningTokens:
        assert self._backend is not None
        if reasoning not in self._reasoning:
            self._reasoning[reasoning] = ReasoningTokens(self._backend.vocabulary, reasoning)
        return self._reasoning[reasoning]
