"""`python -m worker.launch_server`: one worker, an HTTP process and its scheduler process."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .api.http_address import bind
from .api.logs import configure_logs
from .api.scheduler_process import SchedulerProcess, StartError
from .api.start_report import StartReport, start_report
from .config import ServerArgs
from .embedded_models import ModelNotFoundError, resolve_model_path

PARENT_FD = "RADIXFLEET_PARENT_FD"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until a signal; exit code 0 then, 1 for a failure, 2 for wrong arguments."""
    server_args = _parse(arguments)
    configure_logs(server_args.log_level, server_args.log_level_http)
    signal.signal(signal.SIGTERM, _exit_quietly)
    _end_with_parent()
    with start_report() as report:
        try:
            code = _run(server_args, report)
        except (StartError, ModelNotFoundError) as error:
            report.failed(str(error))
            code = 1
        except KeyboardInterrupt:
            code = 0
    sys.exit(code)


def _parse(arguments: Sequence[str] | None) -> ServerArgs:
    parser = argparse.ArgumentParser(
        prog="python -m worker.launch_server",
        description="Serve a model with one worker: OpenAI API and native API over HTTP.",
    )
    parser.add_argument("--version", action="version", version=f"radixfleet {__version__}")
    ServerArgs.add_cli_arguments(parser)
    return ServerArgs.from_cli(parser.parse_args(arguments))


def _run(server_args: ServerArgs, report: StartReport) -> int:
    bound = bind(server_args.host, server_args.port)
    server_args = dataclasses.replace(server_args, port=bound.getsockname()[1])

    def resolve(name_or_path: str) -> Path:
        return resolve_model_path(name_or_path, report.progress)

    model_path = resolve(server_args.model_path)
    tokenizer_path = None
    if not server_args.skip_tokenizer_init:
        tokenizer_path = resolve(server_args.tokenizer_path or server_args.model_path)
    for_scheduler = dataclasses.replace(server_args, model_path=str(model_path))
    scheduler = SchedulerProcess(for_scheduler)
    try:
        # Imported here, so that the scheduler, which takes longer to start, is on its way already.
        import uvloop

        from .api.run_worker import WorkerStart, run_worker

        start = WorkerStart(server_args, tokenizer_path, scheduler, bound, report)
        return uvloop.run(run_worker(start))
    finally:
        scheduler.close()


def _exit_quietly(number: int, frame: object) -> None:
    sys.exit(0)


def _end_with_parent() -> None:
    """Exit when the launcher is gone, however it ended: nobody writes to its pipe, and a read
    returns then.

    The scheduler notices our own end in the same way.
    """
    inherited = os.environ.pop(PARENT_FD, None)
    if inherited is None:
        return
    parent_fd = int(inherited)
    os.set_inheritable(parent_fd, False)

    def watch() -> None:
        os.read(parent_fd, 1)
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


if __name__ == "__main__":
    main()
