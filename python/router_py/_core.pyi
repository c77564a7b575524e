"""Types of the Rust module: see router/src/python/."""

from typing import TypedDict, final

class OptionDescription(TypedDict):
    """One option of the router, as `--help` shows it."""

    name: str
    """Long name without dashes in front, such as `cache-threshold`."""
    help: str
    group: str
    default: str | None
    value_name: str | None
    choices: list[str] | None
    takes_value: bool
    multiple: bool

def parse_args(argv: list[str], prog: str) -> str:
    """Parse and validate a command line, without the program's name, into JSON.

    Raises SystemExit: 0 after --help and --version (on stdout), 2 after an error (on stderr).
    """

def options() -> list[OptionDescription]:
    """All options, in the order of `--help`."""

@final
class Router:
    """A router that serves on background threads between `start` and `stop`."""

    def __init__(self, config_json: str) -> None:
        """Validate a JSON object of options. Raises ValueError with a clear message."""

    def start(self) -> None:
        """Bind and serve; returns once the router listens. Raises OSError if it cannot."""

    def wait(self) -> None:
        """Block, with the GIL released, until another thread calls `stop`.

        Python's signal handlers run meanwhile; what they raise (KeyboardInterrupt) ends the wait.
        """

    def stop(self, timeout_seconds: float | None = 1.0) -> None:
        """Stop accepting, give running answers up to `timeout_seconds`, then drop them.

        None takes the option `shutdown_grace_secs`.
        """

    @property
    def url(self) -> str:
        """`http://host:port`. RuntimeError while the router is not running."""

    @property
    def port(self) -> int:
        """The port that was taken. RuntimeError while the router is not running."""

@final
class Policy:
    """A routing policy by itself: see `router_py.Policy`."""

    def __init__(self, config_json: str, seed: int) -> None:
        """Validate a JSON object of the router's options. Raises ValueError."""

    def add_worker(self) -> int: ...
    def set_available(self, worker: int, available: bool) -> None: ...
    def forget(self, worker: int) -> None: ...
    def assign(
        self,
        blocks: list[int],
        block_bytes: int,
        prompt_bytes: int,
        now: float,
        affinity: str | None = None,
        stream: bool = True,
    ) -> tuple[int, int, str, int]:
        """Worker, ticket, reason, and bytes that the worker is taken to hold."""

    def answered(self, ticket: int, now: float) -> None: ...
    def ended(self, ticket: int, now: float) -> None: ...
    def maintain(self) -> None: ...
    @property
    def loads(self) -> list[int]: ...
