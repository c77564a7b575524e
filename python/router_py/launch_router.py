"""The `launch_router` command: the router alone, before workers that run elsewhere."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from .router import Router


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM. Exits with 1 and one line on stderr if it cannot listen."""
    router = Router.from_args(sys.argv[1:] if argv is None else argv, "launch_router")
    # SIGINT too: whoever starts us in the background of a script may have had it ignored.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        router.start()
    except OSError as error:
        sys.exit(f"error: {error}")
    try:
        print(f"Router is ready at {router.url} (Ctrl-C stops it)", flush=True)
        router.wait()
    except KeyboardInterrupt:
        print("Stopping the router.", flush=True)
    finally:
        # A second Ctrl-C changes nothing: stopping is bounded.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        router.stop()


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
