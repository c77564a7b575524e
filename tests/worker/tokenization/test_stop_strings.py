"""Stop strings never go out, not even in part, however the text is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.tokenization.stop_strings import StopWatcher

FEW_LETTERS = st.text(alphabet="ab.", max_size=40)


def watch(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    """What went out at each piece and at the end, and what matched."""
    watcher = StopWatcher(stops)
    out = []
    for piece in pieces:
        out.append(watcher.push(piece))
        if watcher.matched is not None:
            return out, watcher.matched
    return [*out, watcher.flush()], None


def first_to_end(text: str, stops: list[str]) -> tuple[int, str] | None:
    """The naive model: where the text, read letter by letter, first holds a stop string."""
    for end in range(len(text) + 1):
        found = [(text[:end].find(stop), len(stop), stop) for stop in stops if stop in text[:end]]
        if found:
            begin, _, stop = min(found)
            return begin, stop
    return None


@given(text=FEW_LETTERS, stops=st.lists(st.text(alphabet="ab.", min_size=1, max_size=5)))
def test_letter_by_letter_it_is_the_naive_model(text: str, stops: list[str]) -> None:
    out, matched = watch(stops, list(text))
    expected = first_to_end(text, stops)
    assert matched == (expected and expected[1])
    assert "".join(out) == (text[: expected[0]] if expected else text)


@given(pieces=st.lists(FEW_LETTERS), stop=st.text(alphabet="ab.", min_size=1, max_size=5))
def test_however_it_is_cut_all_before_the_stop_string_goes_out(
    pieces: list[str], stop: str
) -> None:
    text = "".join(pieces)
    out, matched = watch([stop], pieces)
    assert "".join(out) == text.split(stop, 1)[0]
    assert (matched == stop) == (stop in text)


@given(pieces=st.lists(FEW_LETTERS), stops=st.lists(st.text("ab.", min_size=1, max_size=5)))
def test_no_more_is_held_than_could_begin_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    watcher = StopWatcher(stops)
    text = sent = ""
    for piece in pieces:
        text += piece
        sent += watcher.push(piece)
        if watcher.matched is not None:
            return
        held = text.removeprefix(sent)
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_nothing_goes_out_after_a_match() -> None:
    watcher = StopWatcher(["x"])
    assert watcher.push("axb") == "a"
    assert watcher.push("c") == ""
    assert watcher.flush() == ""
