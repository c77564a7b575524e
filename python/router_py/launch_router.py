"""The `launch_router` command: the router alone, before workers that run elsewhere."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from .router import Router

# Whoever sits at the terminal does not want to wait.
INTERRUPT_GRACE_SECONDS = 1.0


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM. Exits with 1 and one line on stderr if it cannot listen."""
    router = Router.from_args(sys.argv[1:] if argv is None else argv, "launch_router")
    # SIGINT too: whoever starts us in the background of a script may have had it ignored.
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    grace_seconds = INTERRUPT_GRACE_SECONDS
    try:
        router.start()
        print(f"Router is ready at {router.url} (Ctrl-C stops it)", flush=True)
        router.wait()
    except OSError as error:
        sys.exit(f"error: {error}")
    except _EndWanted as wanted:
        grace_seconds = wanted.grace_seconds
        print("Stopping the router.", flush=True)
    finally:
        router.stop(grace_seconds)


class _EndWanted(BaseException):
    """A signal came: `grace_seconds` are for running answers, None for what the option says."""

    def __init__(self, grace_seconds: float | None) -> None:
        super().__init__()
        self.grace_seconds = grace_seconds


def _end(signal_number: int, frame: FrameType | None) -> None:
    # The next signal ends us at once: nothing of Python runs while the router stops.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _EndWanted(INTERRUPT_GRACE_SECONDS if signal_number == signal.SIGINT else None)


if __name__ == "__main__":
    main()
