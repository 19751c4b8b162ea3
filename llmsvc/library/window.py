"""Reads the primitive values of a GGUF through a small window that moves over the file."""

from __future__ import annotations

import struct
from typing import BinaryIO

MAX_ITEMS = 1 << 21
"""Strings in all arrays together; a large vocabulary with its merges has about a million."""
MAX_TEXT = 256
"""Bytes of a key or text that are kept."""
_WINDOW = 1 << 20
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class BrokenError(Exception):
    """What is wrong with the file, as the end of a sentence that begins with its path."""


class ShortError(BrokenError):
    """The file has fewer bytes than it should have by now."""


class Reader:
    """A window that moves over the file; all reads are checked against the file's length."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self.items_left = MAX_ITEMS
        self._stream = stream
        self._data = b""
        self._start = 0
        self._at = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes, count at most _WINDOW."""
        if self._at + count > len(self._data):
            if self.position + count > self.size:
                raise BrokenError("is truncated: it ends within its header")
            self._load(self.position)
            if len(self._data) < count:
                raise ShortError("changed while it was read")
        data = self._data[self._at : self._at + count]
        self._at += count
        return data

    def skip(self, count: int) -> None:
        if self.position + count > self.size:
            raise BrokenError("is truncated: it ends within its header")
        self._at += count
        if self._at > len(self._data):
            self._load(self.position)

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def text(self) -> str:
        """A string, cut to MAX_TEXT bytes."""
        length = self.u64()
        kept = self.take(min(length, MAX_TEXT)).decode("utf-8", "replace")
        self.skip(length - min(length, MAX_TEXT))
        return kept

    def strings(self, count: int) -> list[bytes]:
        """So many strings."""
        self._claim(count)
        return [self.take(min(self.u64(), _WINDOW)) for _ in range(count)]

    def skip_strings(self, count: int) -> None:
        self._claim(count)
        while count:
            data, at, end = self._data, self._at, len(self._data) - 8
            # The one hot loop: a vocabulary has hundreds of thousands of strings.
            while count and at <= end:
                at += 8 + _U64.unpack_from(data, at)[0]
                count -= 1
            self._at = 0
            self.skip(at)
            if count and self._at + 8 > len(self._data):
                self.take(8)
                self._at -= 8

    def _claim(self, count: int) -> None:
        self.items_left -= count
        if self.items_left < 0:
            raise BrokenError(f"claims more than {MAX_ITEMS} strings")

    def _load(self, position: int) -> None:
        self._stream.seek(position)
        self._data = self._stream.read(_WINDOW) or b""
        self._start = position
        self._at = 0
