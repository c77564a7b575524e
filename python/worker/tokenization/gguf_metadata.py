"""The key-value section of a GGUF file, read alone: the tensors after it stay untouched.

The `gguf` package reads the same, but makes one numpy array per string, which takes seconds for a
vocabulary; this takes a tenth of one. Format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

_MAGIC = b"GGUF"
_STRING = 8
_ARRAY = 9
# GGUF value type -> struct format of one little-endian value.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}


class GGUFError(ValueError):
    """The file is not a GGUF file that can be read; the text is one line for the user."""


def read_gguf_metadata(path: Path) -> dict[str, Any]:
    """All keys of the file with their values; arrays become lists.

    Raises GGUFError if the file is cut short, is not GGUF, or is of version 1 or big-endian.
    """
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise GGUFError(f"{path} is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).metadata()
            except (struct.error, IndexError, KeyError, UnicodeDecodeError, MemoryError) as error:
                raise GGUFError(f"{path} is damaged or cut short: {error!r}") from error
            except GGUFError as error:
                raise GGUFError(f"{path}: {error}") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._offset = len(_MAGIC)

    def metadata(self) -> dict[str, Any]:
        version = self._scalar("I")
        if version not in (2, 3):
            raise GGUFError(f"GGUF version {version} is not supported; versions 2 and 3 are")
        self._scalar("Q")  # number of tensors
        count = self._scalar("Q")
        return {self._string(): self._value(self._scalar("I")) for _ in range(count)}

    def _scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._data, self._offset)
        self._offset += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        data, offset, size = self._data, self._offset, len(self._data)
        unpack = struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            begin = offset + 8
            offset = begin + unpack(data, offset)[0]
            if offset > size:
                raise IndexError("a string reaches beyond the end of the file")
            strings.append(data[begin:offset].decode())
        self._offset = offset
        return strings

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        element, count = self._scalar("I"), self._scalar("Q")
        if element == _STRING:
            return self._strings(count)
        if element == _ARRAY:
            return [self._value(_ARRAY) for _ in range(count)]
        layout = f"<{count}{_SCALARS[element]}"
        values = list(struct.unpack_from(layout, self._data, self._offset))
        self._offset += struct.calcsize(layout)
        return values
