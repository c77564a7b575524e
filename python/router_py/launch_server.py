"""The `launch_server` command: `--dp-size` workers, and the router in front of them."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import httpx

from worker.api.http_address import bind
from worker.api.scheduler_process import StartError
from worker.api.start_report import STATUS_FD, PipeReport
from worker.config import API_KEY_VARIABLE
from worker.embedded_models import ModelNotFoundError, resolve_model_path
from worker.launch_server import PARENT_FD

from .child_process import python_module
from .cores import threads_per_worker
from .display import LineDisplay, choose_display
from .fleet import Fleet, FleetError, WorkerCommand
from .greeting import greeting
from .router import Router
from .server_options import ServerOptions, parse

# How long the workers get to end, and running answers after a Ctrl-C.
STOP_SECONDS = 1.0
LOOPBACK = "127.0.0.1"
# Below the router's metrics (29000), and below the ports that the kernel hands to outgoing
# connections: one of those could take a worker's port while the worker is restarted.
WORKER_PORTS = range(20000, 29000)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM. Exit code 0 then, 1 for a failure, 2 for wrong arguments."""
    began = time.monotonic()
    options = parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    status_fd = os.environ.pop(STATUS_FD, None)
    report = None if status_fd is None else PipeReport(int(status_fd))
    try:
        with choose_display() as display:
            _check(options, display)
            launch = _Launch(options, display, report, began)
            asyncio.run(launch.until_stopped())
    except (FleetError, ModelNotFoundError, StartError) as error:
        if report is None:
            sys.exit(f"error: {error}")
        report.failed(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        pass  # before the workers were started


def _check(options: ServerOptions, display: LineDisplay) -> None:
    """Find what would fail the router or every worker before anything is started."""
    server = options.server
    bind(server.host, server.port).close()
    _check_metrics_port(*options.metrics_address())
    for path in filter(None, (server.model_path, server.tokenizer_path)):
        resolve_model_path(path, lambda stage, done: display.progress("model", stage, done))


def _check_metrics_port(host: str, port: int) -> None:
    try:
        if port != 0:
            bind(host, port).close()
    except StartError as error:
        advice = "choose another one with --router-prometheus-port, or 0 for no metrics"
        raise StartError(f"metrics: {error}; {advice}") from error


class _Launch:
    """One run of the fleet, from its first start to the end of its last process."""

    def __init__(
        self,
        options: ServerOptions,
        display: LineDisplay,
        report: PipeReport | None,
        began: float,
    ) -> None:
        ports = free_ports(options.dp_size)
        workers = [worker_command(options, index, port) for index, port in enumerate(ports)]
        self._options = options
        self._display = display
        self._report = report
        self._began = began
        self._fleet = Fleet(workers, display)
        self._router: Router = options.make_router([worker.url for worker in workers])

    async def until_stopped(self) -> None:
        """Returns when the user, or who started us, wants the end. Raises FleetError."""
        ending = _end_wanted()
        serving = asyncio.create_task(self._serve())
        patient = False
        try:
            await asyncio.wait({ending, serving}, return_when=asyncio.FIRST_COMPLETED)
            patient = ending.done() and ending.result()
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            if patient:
                self._display.note("Finishing the answers in progress; a second signal drops them.")
                await asyncio.to_thread(self._router.stop, None)
            await asyncio.gather(
                asyncio.to_thread(self._router.stop, STOP_SECONDS), self._fleet.stop(STOP_SECONDS)
            )
        if not serving.cancelled():
            serving.result()

    async def _serve(self) -> None:
        first, *_ = await self._fleet.start()
        try:
            self._router.start()
        except OSError as error:
            raise FleetError(str(error)) from error
        # Workers may die, and be restarted, before the router has heard from one.
        await asyncio.gather(self._fleet.keep(), self._announce(first))

    async def _announce(self, worker: dict[str, Any]) -> None:
        await _until_healthy(self._router.url)
        self._display.close()
        if self._report:
            self._report.ready(self._router.url, {})
        else:
            seconds = time.monotonic() - self._began
            embeds = worker["task"] == "embed"
            print(greeting(self._options, self._router.url, seconds, embeds=embeds), flush=True)


async def _until_healthy(url: str) -> None:
    """Returns when the router has heard from a worker: what we say is ready answers."""
    # Our own router on this machine: its certificate need not be for this address.
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        while (await client.get(f"{url}/health")).status_code != httpx.codes.OK:
            await asyncio.sleep(0.01)


def worker_command(options: ServerOptions, index: int, port: int) -> WorkerCommand:
    """The command of one worker, which listens for the router alone."""
    server = options.server
    threads = server.num_threads or threads_per_worker(options.dp_size)
    first_gpu = server.base_gpu_id + index * server.tp_size
    args = dataclasses.replace(
        server, host=LOOPBACK, port=port, num_threads=threads, base_gpu_id=first_gpu
    )
    environment = {"OMP_NUM_THREADS": str(threads)}
    if options.worker_api_key is not None:
        environment[API_KEY_VARIABLE] = options.worker_api_key
    return WorkerCommand(
        name=f"worker {index}",
        command=python_module("worker.launch_server", *args.to_cli()),
        url=args.url(),
        environment=environment,
    )


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, chosen at random: two fleets may start at the same time."""
    shuffled = random.sample(WORKER_PORTS, len(WORKER_PORTS))
    found = list(itertools.islice(filter(_is_free, shuffled), count))
    if len(found) < count:
        raise FleetError(f"{count} workers need {count} free ports, and only {len(found)} are left")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _end_wanted() -> asyncio.Future[bool]:
    """Done on a signal, or when the process that started us is gone.

    True when running answers should end first: on SIGTERM. A second signal ends us at once; our
    workers notice that we are gone.
    """
    loop = asyncio.get_running_loop()
    wanted: asyncio.Future[bool] = loop.create_future()

    def end(patient: bool) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        if not wanted.done():
            wanted.set_result(patient)

    loop.add_signal_handler(signal.SIGINT, end, False)
    loop.add_signal_handler(signal.SIGTERM, end, True)
    parent_fd = os.environ.pop(PARENT_FD, None)
    if parent_fd is not None:
        os.set_inheritable(int(parent_fd), False)

        def parent_is_gone() -> None:
            loop.remove_reader(int(parent_fd))
            end(False)

        loop.add_reader(int(parent_fd), parent_is_gone)
    return wanted


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
