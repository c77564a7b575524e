"""Who may import whom: the rooms of the house, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PYTHON = Path(__file__).parents[1] / "python"

# A room may import itself and what stands behind it here; longer names win over shorter ones.
ALLOWED: dict[str, set[str]] = {
    "worker.messages": set(),
    "worker.embedded_models": set(),
    "worker.gguf_file": set(),
    "worker.config": set(),
    "worker.cores": set(),
    "worker.dependent_process": set(),
    "worker.kernels": set(),
    "worker.distributed": set(),
    "worker.attention": {"worker.kernels"},
    "worker.layers": {"worker.attention", "worker.kernels", "worker.distributed"},
    "worker.models": {
        "worker.layers",
        "worker.attention",
        "worker.distributed",
        "worker.gguf_file",
    },
    "worker.sampling": {"worker.kernels"},
    "worker.grammar": {"worker.messages", "worker.dependent_process", "worker.cores"},
    "worker.cache": set(),
    "worker.runtime": {
        "worker.models",
        "worker.distributed",
        "worker.layers",
        "worker.attention",
        "worker.sampling",
        "worker.gguf_file",
        "worker.cores",
    },
    "worker.scheduler": {
        "worker.messages",
        "worker.config",
        "worker.cache",
        "worker.runtime",
        "worker.models",
        "worker.attention",
        "worker.sampling",
        "worker.embedded_models",
        "worker.dependent_process",
        "worker.distributed",
        "worker.grammar",
        "worker.tokenization",
    },
    "worker.tokenization": {"worker.gguf_file", "worker.messages"},
    "worker.parsers": set(),
    "worker.api": {
        "worker.messages",
        "worker.config",
        "worker.dependent_process",
        "worker.parsers",
        "worker.tokenization",
        "worker",
    },
    "worker.launch_server": {"worker.api", "worker.config", "worker.embedded_models", "worker"},
    "router_py": {"worker"},
    "radixfleet": {"router_py", "worker"},
    "worker": set(),
}
NO_HTTP = ("worker.runtime", "worker.models", "worker.layers", "worker.attention", "worker.cache")
HTTP_LIBRARIES = {"fastapi", "starlette", "uvicorn", "httpx", "pydantic", "aiohttp", "requests"}


def modules() -> dict[str, Path]:
    found = {}
    for path in PYTHON.rglob("*.py"):
        parts = path.relative_to(PYTHON).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """Absolute names of all that a module imports, wherever in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            found |= {base} if node.module else {f"{base}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str | None:
    """The room that a module stands in; None for what is not ours."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ALLOWED), None)


def is_allowed(importer: str, imported: str) -> bool:
    own, other = room(importer), room(imported)
    if own is None or other is None or own == other:
        return True
    if own in ("router_py", "radixfleet"):  # the top floor uses whole packages
        return any(other == door or other.startswith(f"{door}.") for door in ALLOWED[own])
    return other in ALLOWED[own]


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down_the_house_and_never_back(name):
    wrong = {other for other in imports(name, modules()[name]) if not is_allowed(name, other)}
    assert not wrong, f"{name} must not import {sorted(wrong)}"


def test_the_engine_knows_no_http_library():
    for name, path in modules().items():
        if name.startswith(NO_HTTP):
            roots = {imported.partition(".")[0] for imported in imports(name, path)}
            assert not roots & HTTP_LIBRARIES, name
