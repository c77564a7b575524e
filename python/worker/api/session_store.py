"""Sessions: requests whose prompts go on where earlier ones of the same client ended.

They only spare clients to send their history again: that its keys and values are not computed again
is the prefix cache's doing, as for anybody who sends the same tokens.
"""

from __future__ import annotations

import time
import uuid
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..tokenization.text_output import TextOutput
from .errors import bad_request
from .fields import RequestModel

MAX_SESSIONS = 1024
# A session that nobody has used for so long is closed when the next one opens.
IDLE_SECONDS = 3600.0
# So many requests of a session are remembered at most.
MAX_TURNS = 1000


class SessionParams(RequestModel):
    """Where in the session `id` a request goes on.

    After the prompt and answer of the request `rid`, or of nothing if that is None. `offset` takes
    only so many of their first tokens, or leaves out the last -`offset` if it is negative; None and
    0 take all. `drop_previous_output` leaves out the answer. With `replace` all that went on from
    `rid` is forgotten before, and aborted if it runs, as is `rid` itself; without a `rid` that is
    the whole session.
    """

    id: str
    rid: str | None = None
    offset: int | None = None
    replace: bool | None = None
    drop_previous_output: bool | None = None


@dataclass(eq=False)
class _Turn:
    """One request of a session. Its prompt is the first `kept` tokens of its parent's prompt and
    answer, then its `own`. While it runs `answer` is that which is being made.
    """

    rid: str
    parent: _Turn | None
    kept: int
    own: array[int] = field(repr=False)
    answer: TextOutput | array[int] = field(repr=False)
    children: list[_Turn] = field(default_factory=list, repr=False)

    @property
    def is_running(self) -> bool:
        return isinstance(self.answer, TextOutput)

    @property
    def prompt_length(self) -> int:
        return self.kept + len(self.own)

    def end(self) -> None:
        """It stays with what there is of its answer."""
        if isinstance(self.answer, TextOutput):
            self.answer = array("i", self.answer.output_ids)

    def tokens(self) -> list[int]:
        """Prompt and answer so far."""
        way: list[_Turn] = [self]
        while way[-1].parent is not None:
            way.append(way[-1].parent)
        tokens: list[int] = []
        for turn in reversed(way):
            del tokens[turn.kept :]
            tokens += turn.own
            answer = turn.answer
            tokens += answer.output_ids if isinstance(answer, TextOutput) else answer
        return tokens


@dataclass(eq=False)
class Continuation:
    """What the requests of one call go on from: `context`, the tokens before their own."""

    session: Session
    parent: _Turn | None
    replace: bool
    context: list[int]


class Session:
    """A tree of requests; `capacity` is the longest prompt, context included, in characters."""

    def __init__(self, session_id: str, capacity: int) -> None:
        self.id = session_id
        self.capacity = capacity
        self.last_used = time.monotonic()
        self._turns: dict[str, _Turn] = {}

    @property
    def is_running(self) -> bool:
        """Whether any request of it is."""
        return any(turn.is_running for turn in self._turns.values())

    def continuation(self, params: SessionParams) -> Continuation:
        """Raises ApiError 400 if there is no such request, or it runs and is not to be replaced."""
        parent = None
        if params.rid is not None:
            parent = self._turns.get(params.rid)
            if parent is None:
                raise _unknown_turn(self.id, params.rid)
            if parent.is_running and not params.replace:
                raise bad_request(
                    f"session_params.rid: request {params.rid!r} is still running; wait for its "
                    "end, or replace what follows it",
                    "session_params.rid",
                )
        context: list[int] = []
        if parent is not None:
            context = parent.tokens()
            if params.drop_previous_output:
                del context[parent.prompt_length :]
            context = context[: params.offset or None]
        return Continuation(self, parent, bool(params.replace), context)

    def check_capacity(self, characters: int) -> None:
        """Raises ApiError 400 for a prompt that is longer than the session's may be."""
        if characters > self.capacity:
            raise bad_request(
                f"The prompt has {characters} characters with what it goes on from, and the "
                f"session was opened with a capacity_of_str_len of {self.capacity}",
                "session_params",
                "context_length_exceeded",
            )

    # ===== for `recorded` =====

    def replace(self, start: Continuation) -> list[_Turn]:
        """Forget what `start` replaces; returns what of it is running, its parent included."""
        if start.parent is None:
            forgotten = list(self._turns.values())
            self._turns.clear()
            return [turn for turn in forgotten if turn.is_running]
        forgotten = _below(start.parent)
        for turn in forgotten:
            del self._turns[turn.rid]
        start.parent.children.clear()
        running = [turn for turn in (start.parent, *forgotten) if turn.is_running]
        start.parent.end()
        return running

    def add(self, start: Continuation, output: TextOutput) -> _Turn:
        """A request has begun. Raises ApiError 400 if it cannot be a part of the session."""
        rid, parent = output.request.rid, start.parent
        if parent is not None and self._turns.get(parent.rid) is not parent:
            raise _unknown_turn(self.id, parent.rid)  # replaced meanwhile
        if rid in self._turns:
            raise bad_request(f"Session {self.id!r} has a request {rid!r} already", "rid")
        if len(self._turns) >= MAX_TURNS:
            raise bad_request(
                f"Session {self.id!r} holds {MAX_TURNS} requests, and no more fit; replace some",
                "session_params",
            )
        prompt, kept = output.request.input_ids, len(start.context)
        if prompt[:kept] != start.context:
            kept = 0  # it was too long, and lost its beginning
        turn = _Turn(rid, parent, kept, array("i", prompt[kept:]), output)
        self._turns[rid] = turn
        if parent is not None:
            parent.children.append(turn)
        return turn

    def settle(self, turn: _Turn) -> None:
        """`turn` runs no more. If it has no whole answer, nor one that somebody ended, it is
        forgotten, unless it was replaced, and something goes on from what there was of it.
        """
        self.last_used = time.monotonic()
        if not isinstance(turn.answer, TextOutput):
            return
        if turn.answer.finish is not None and not turn.answer.finish.is_failure:
            turn.end()
        elif self._turns.get(turn.rid) is turn:
            del self._turns[turn.rid]
            if turn.parent is not None:
                turn.parent.children.remove(turn)


def _below(turn: _Turn) -> list[_Turn]:
    """All that went on from `turn`."""
    found = list(turn.children)
    for each in found:  # grows meanwhile
        found += each.children
    return found


def _unknown_turn(session_id: str, rid: str) -> Exception:
    return bad_request(
        f"session_params.rid: session {session_id!r} has no request {rid!r}; those that failed or "
        "were replaced are no part of it",
        "session_params.rid",
    )


class SessionStore:
    """The open sessions, by their ids."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, capacity: int, session_id: str | None = None) -> str:
        """Returns the id. Raises ApiError 400 if it is in use, or too many sessions are open."""
        if session_id is not None and session_id in self._sessions:
            raise bad_request(f"Session {session_id!r} is open already", "session_id")
        self._close_idle()
        if len(self._sessions) >= MAX_SESSIONS:
            raise bad_request(
                f"{MAX_SESSIONS} sessions are open, and no more may be; close those that are done"
            )
        name = session_id or uuid.uuid4().hex
        self._sessions[name] = Session(name, capacity)
        return name

    def close(self, session_id: str) -> None:
        """Forget a session; what of it is running goes on. Raises ApiError 400 if none is open."""
        del self._sessions[self.find(session_id, "session_id").id]

    def find(self, session_id: str, param: str = "session_params.id") -> Session:
        """Raises ApiError 400 if no such session is open."""
        session = self._sessions.get(session_id)
        if session is None:
            raise bad_request(f"{param}: no session {session_id!r} is open", param)
        session.last_used = time.monotonic()
        return session

    def _close_idle(self) -> None:
        limit = time.monotonic() - IDLE_SECONDS
        for session in list(self._sessions.values()):
            if session.last_used < limit and not session.is_running:
                del self._sessions[session.id]


@contextmanager
def recorded(
    starts: Sequence[Continuation | None],
    outputs: Sequence[TextOutput],
    abort: Callable[[Collection[str]], None],
) -> Iterator[None]:
    """While within, `outputs` are the running requests of their sessions; what has a whole answer
    afterwards stays there.

    starts: what each goes on from; None for those without a session. `abort` ends requests by their
    ids. Raises ApiError 400 if one cannot be a part of its session.
    """
    for start in dict.fromkeys(filter(None, starts)):
        if start.replace:
            abort([turn.rid for turn in start.session.replace(start)])
    turns: list[tuple[Session, _Turn]] = []
    try:
        for start, output in zip(starts, outputs, strict=True):
            if start is not None:
                turns.append((start.session, start.session.add(start, output)))
        yield
    finally:
        for session, turn in turns:
            session.settle(turn)
