"""The peers' programs: where they are, and how they come there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path.home() / ".cache" / "radixfleet" / "bench-peers"

# Peers from PyPI: their versions, and the module that launches each.
VERSIONS = {"sglang-router": "0.3.2", "smg": "1.13.0", "vllm-router": "0.1.17"}
MODULES = {
    "sglang-router": "sglang_router.launch_router",
    "smg": "smg.launch_router",
    "vllm-router": "vllm_router.launch_router",
}


class Missing(Exception):
    """A peer cannot be had here."""


def python() -> Path:
    return FOLDER / "bin" / "python"


def install(peer: str) -> str:
    """Makes sure that the peer is there; returns its version."""
    return install_nginx() if peer == "nginx" else install_from_pypi(peer)


def install_from_pypi(peer: str) -> str:
    wanted = VERSIONS[peer]
    if not python().exists():
        venv.create(FOLDER, with_pip=True)
    folders = [str(folder) for folder in FOLDER.glob("lib/python*/site-packages")]
    found = {dist.name: dist.version for dist in distributions(path=folders)}
    if found.get(peer) != wanted or not _launches(peer):
        print(f"installing {peer} {wanted} into {FOLDER}", file=sys.stderr)
        command = [str(python()), "-m", "pip", "install", "--quiet", f"{peer}=={wanted}"]
        # The peers' versions are their own business, not that of our constraints.
        environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        installed = subprocess.run(command, env=environment, capture_output=True, text=True)
        if installed.returncode != 0:
            raise Missing(f"pip cannot install {peer}: {installed.stderr.strip()[-500:]}")
    return wanted


def _launches(peer: str) -> bool:
    command = [str(python()), "-c", f"import {MODULES[peer]}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def install_nginx() -> str:
    if shutil.which("nginx") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Missing("nginx is not installed; on Debian: apt-get install nginx-light")
        print("installing nginx-light", file=sys.stderr)
        command = ["apt-get", "install", "--yes", "--quiet", "nginx-light"]
        installed = subprocess.run(command, capture_output=True, text=True)
        if installed.returncode != 0:
            raise Missing(f"apt-get cannot install nginx-light: {installed.stderr.strip()[-500:]}")
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
    return said.strip().rpartition("/")[2]
