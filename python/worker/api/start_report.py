"""How the start goes: JSON lines to a launcher, a bar on a terminal, or lines in the log."""

from __future__ import annotations

import json
import logging
import os
import sys
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

STATUS_FD = "RADIXFLEET_STATUS_FD"


class StartReport(ABC):
    """`fraction` lies between 0 and 1 within its stage. To be used in a `with` block."""

    @abstractmethod
    def progress(self, stage: str, fraction: float) -> None:
        """The start goes on."""

    @abstractmethod
    def ready(self, url: str, details: dict[str, Any]) -> None:
        """HTTP listens and the engine takes requests."""

    @abstractmethod
    def failed(self, error: str) -> None:
        """There will be no start; `error` is one line."""

    def close(self) -> None:  # noqa: B027 - most have nothing to leave
        """Leave the terminal as it was."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def start_report() -> StartReport:
    """The one that suits where the process was started from."""
    fd = os.environ.pop(STATUS_FD, None)
    if fd is not None:
        return PipeReport(int(fd))
    return TerminalReport() if sys.stderr.isatty() else LogReport()


class PipeReport(StartReport):
    """To the launcher, over an inherited pipe. A launcher that is gone is noticed elsewhere."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd

    def progress(self, stage: str, fraction: float) -> None:
        self._write({"event": "progress", "stage": stage, "fraction": round(fraction, 4)})

    def ready(self, url: str, details: dict[str, Any]) -> None:
        self._write({"event": "ready", "url": url, **details})

    def failed(self, error: str) -> None:
        self._write({"event": "failed", "error": error})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            os.write(self._fd, json.dumps(line).encode() + b"\n")
        except OSError as error:
            logger.debug("the status pipe is closed: %s", error)


class LogReport(StartReport):
    """One line a stage."""

    def __init__(self) -> None:
        self._stage = ""

    def progress(self, stage: str, fraction: float) -> None:
        if stage != self._stage:
            self._stage = stage
            logger.info("%s", stage)

    def ready(self, url: str, details: dict[str, Any]) -> None:
        logger.info("ready on %s", url)

    def failed(self, error: str) -> None:
        print(f"error: {error}", file=sys.stderr)


class TerminalReport(StartReport):
    """A bar for the stage that runs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=1.0)
        self._bar.start()

    def progress(self, stage: str, fraction: float) -> None:
        self._bar.update(self._task, description=stage, completed=fraction)

    def ready(self, url: str, details: dict[str, Any]) -> None:
        self.close()
        self._console.print(f"ready on {url}", highlight=False)

    def failed(self, error: str) -> None:
        self.close()
        self._console.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()
