"""The GGUF header as the `gguf` package writes it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from worker.embedded_models import resolve_model_path
from worker.gguf_file import GGUFError, GGUFFile


def test_every_kind_of_metadata_and_the_place_of_every_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_uint8("a.uint8", 200)
    writer.add_int8("a.int8", -3)
    writer.add_uint16("a.uint16", 60000)
    writer.add_int16("a.int16", -300)
    writer.add_uint32("a.uint32", 1 << 31)
    writer.add_int32("a.int32", -5)
    writer.add_uint64("a.uint64", 1 << 63)
    writer.add_int64("a.int64", -(1 << 40))
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "née ▁ 🦙")
    writer.add_array("a.strings", ["", "één", "b" * 300])
    writer.add_array("a.numbers", [3, -1, 70000])
    writer.add_array("a.nested", [[1, 2], [3]])
    writer.add_tensor("matrix", np.arange(15, dtype=np.float32).reshape(3, 5))
    writer.add_tensor("vector", np.array([7, 8], dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = GGUFFile(path)
    expected = {
        "uint8": 200,
        "int8": -3,
        "uint16": 60000,
        "int16": -300,
        "uint32": 1 << 31,
        "int32": -5,
        "uint64": 1 << 63,
        "int64": -(1 << 40),
        "float32": 0.5,
        "float64": 0.1,
        "bool": True,
        "string": "née ▁ 🦙",
        "strings": ["", "één", "b" * 300],
        "numbers": [3, -1, 70000],
        "nested": [[1, 2], [3]],
    }
    assert {name: file.metadata[f"a.{name}"] for name in expected} == expected
    assert file.tensors["matrix"].shape == (3, 5)
    for tensor in gguf.GGUFReader(path).tensors:
        assert file.tensors[tensor.name].offset == tensor.data_offset
        assert file.tensors[tensor.name].ggml_type == tensor.tensor_type


def test_a_file_cut_short_anywhere_in_its_header_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("number", 7)
    writer.add_string("text", "abc")
    writer.add_array("texts", ["a", "", "日本"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = path.read_bytes()
    header_end = content.index("日本".encode()) + len("日本".encode())
    for length in range(header_end):
        path.write_bytes(content[:length])
        with pytest.raises(GGUFError, match=r"GGUF"):
            GGUFFile(path)


def test_files_of_another_kind_or_version_are_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(20))
    with pytest.raises(GGUFError, match="not a GGUF file"):
        GGUFFile(path)
    path.write_bytes(b"GGUF\x01\x00\x00\x00" + bytes(20))
    with pytest.raises(GGUFError, match="version 1 is not supported"):
        GGUFFile(path)


def test_metadata_of_the_real_file_is_what_the_gguf_package_reads() -> None:
    path = resolve_model_path("smollm2-135m")
    fields = gguf.GGUFReader(path).fields
    expected = {
        name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")
    }
    assert GGUFFile(path).metadata == expected
