"""How each router is started: one command line each, everything not named here at its defaults."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from ..servers import free_port
from . import peers
from .load import ROOT
from .process import Pinned, pinned

OURS = "ours"
PEERS = (*peers.MODULES, "nginx")
BINARY = ROOT / "target/release/radixfleet-router"

START_LIMIT_SECONDS = 60
TINY = {"model": "mock", "prompt": "Hello", "max_tokens": 1}


class DidNotStart(Exception):
    """A router that ended or never answered."""


@dataclass(frozen=True)
class RunningRouter:
    process: Pinned
    port: int
    # On time.monotonic(), when its process began.
    started: float

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Until a request is answered by a worker."""
        url = f"http://{self.address}/v1/completions"
        while not _answers(url):
            waited = time.monotonic() - self.started
            if not self.process.is_running() or waited > START_LIMIT_SECONDS:
                raise DidNotStart(f"not ready after {waited:.0f} s:\n{self.process.last_lines()}")
            time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.post(url, json=TINY, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(
    router: str, policy: str, workers: list[str], core: int, folder: Path, binary: Path
) -> Iterator[RunningRouter]:
    """The router as a process of its own; not waited for."""
    port = free_port()
    if router == "nginx":
        command = nginx_command(port, workers, folder)
    elif router == OURS:
        command = our_command(binary, port, policy, workers)
    else:
        command = peer_command(router, port, policy, workers)
    started = time.monotonic()
    with pinned(command, core, folder) as process:
        yield RunningRouter(process, port, started)


def our_command(binary: Path, port: int, policy: str, workers: list[str]) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(port), "--policy", policy]
    if "--prometheus-port" in our_help(binary):
        flags += ["--prometheus-port", str(free_port())]
    return [str(binary), *flags, "--worker-urls", *workers]


@cache
def our_help(binary: Path) -> str:
    """What the binary says of its options: not every version has all."""
    return subprocess.run([str(binary), "--help"], capture_output=True, text=True).stdout


def peer_command(router: str, port: int, policy: str, workers: list[str]) -> list[str]:
    flags = ["--host", "127.0.0.1", "--port", str(port), "--policy", policy]
    flags += ["--prometheus-port", str(free_port())]
    module = peers.MODULES[router]
    return [str(peers.python()), "-m", module, *flags, "--worker-urls", *workers]


def nginx_command(port: int, workers: list[str], folder: Path) -> list[str]:
    configuration = folder / "nginx.conf"
    configuration.write_text(nginx_configuration(port, workers, folder))
    return ["nginx", "-p", str(folder), "-c", str(configuration)]


def nginx_configuration(port: int, workers: list[str], folder: Path) -> str:
    """A proxy for streams: nothing buffered, connections kept on both sides, no log."""
    servers = "\n".join(f"    server {url.removeprefix('http://')};" for url in workers)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {kind}_temp_path {folder}/nginx-{kind};" for kind in kinds)
    return f"""
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 32768; }}
http {{
  access_log off;
{temporary}
  client_max_body_size 512m;
  client_body_buffer_size 1m;
  keepalive_requests 1000000000;
  upstream workers {{
{servers}
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    location / {{
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
