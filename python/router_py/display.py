"""What a user sees on stderr of a fleet: bars on a terminal while it starts, else plain lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text


class LineDisplay:
    """One line a stage, for logs. `name` is whose news it is: a worker's name, or "model"."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}

    def progress(self, name: str, stage: str, fraction: float) -> None:
        """A start goes on; `fraction` lies between 0 and 1 within its stage."""
        if self._stages.get(name) != stage:
            self._stages[name] = stage
            self.line(name, stage)

    def line(self, name: str, text: str) -> None:
        """A process wrote a line."""
        print(f"[{name}] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something happened that the user should know."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """The start is over; lines and notes are shown as before."""
        self._stages.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class TerminalDisplay(LineDisplay):
    """A bar for each name that reports progress; lines scroll by above the bars."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.fields[name]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            console=self._console,
        )

    def progress(self, name: str, stage: str, fraction: float) -> None:
        if name not in self._tasks:
            self._bars.start()
            self._tasks[name] = self._bars.add_task(stage, total=1.0, name=name)
        self._bars.update(self._tasks[name], description=stage, completed=fraction)

    def line(self, name: str, text: str) -> None:
        prefix = Text(f"[{name}] ", style="cyan")
        self._console.print(prefix + Text.from_ansi(text), highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="bold"), highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()
        self._tasks.clear()


def choose_display() -> LineDisplay:
    """The one that suits what stderr is."""
    return TerminalDisplay() if sys.stderr.isatty() else LineDisplay()
