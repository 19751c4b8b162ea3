"""A preallocated ring file of records that survives a killed process.

Nothing is written with fsync: what a killed process wrote is in the page cache; a power cut may lose the last
seconds. Being preallocated, a disk that others filled does not stop it. Offsets only grow; a record lies at
its offset modulo the size, which is also how the end is found again: there, offset or checksum do not fit.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from llmsvc.errors import ConflictError, Error

SIZE = 64 * 1024 * 1024

_MAGIC = b"llmsvc-1"
_FILE = struct.Struct("<8sQQ")  # magic, size of the ring, offset of the first record that is still needed
_RECORD = struct.Struct("<QIIB16s")  # offset, checksum of the rest, length of the payload, kind, request id
_AFTER_CHECKSUM = 12


class DamagedError(Error):
    """The file is not a spool, or not a whole one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record; `end` is the offset after it."""

    kind: int
    request_id: bytes
    payload: bytes
    end: int


class Spool:
    """The ring in `file`; it is created with `size` bytes where there is none.

    :raises ConflictError: another process has it
    :raises DamagedError: it is not ours
    :raises Error: it cannot be created
    """

    def __init__(self, file: Path, size: int = SIZE) -> None:
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._fd).st_size < _FILE.size:
                os.posix_fallocate(self._fd, 0, _FILE.size + size)
                os.pwrite(self._fd, _FILE.pack(_MAGIC, size, 0), 0)
                os.fsync(self._fd)
            self.size: int
            self.head: int
            magic, self.size, self.head = _FILE.unpack(os.pread(self._fd, _FILE.size, 0))
        except BlockingIOError:
            os.close(self._fd)
            raise ConflictError(
                f"{file} is in use by another proxy", hint="see 'systemctl status auth-proxy'"
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise Error(f"{file} cannot be set up: {error.strerror}", hint="free some disk space") from None
        if magic != _MAGIC or self.size + _FILE.size != os.fstat(self._fd).st_size:
            os.close(self._fd)
            raise DamagedError(f"{file} is damaged")
        self.tail: int = self.head
        for record in self.records():
            self.tail = record.end

    @property
    def free(self) -> int:
        """Bytes that are left."""
        return self.size - self.backlog

    @property
    def backlog(self) -> int:
        """Bytes that are needed."""
        return self.tail - self.head

    def append(self, kind: int, request_id: bytes, payload: bytes) -> None:
        """Writes one record; the caller has looked at `free`."""
        rest = struct.pack("<IB16s", len(payload), kind, request_id) + payload
        data = struct.pack("<QI", self.tail, zlib.crc32(rest)) + rest
        place = self.tail % self.size
        if place + len(data) <= self.size:
            os.pwrite(self._fd, data, _FILE.size + place)
        else:
            first = self.size - place
            os.pwrite(self._fd, data[:first], _FILE.size + place)
            os.pwrite(self._fd, data[first:], _FILE.size)
        self.tail += len(data)

    def records(self, limit: int | None = None) -> Iterator[Record]:
        """The records from the head on, within about `limit` bytes."""
        offset = self.head
        end = self.head + (self.size if limit is None else min(limit, self.size))
        buffer = b""
        start = offset
        while offset < end:
            if offset + _RECORD.size > start + len(buffer):
                start, buffer = offset, self._read(offset, 256 * 1024)
            here = offset - start
            stamp, checksum, length, kind, request_id = _RECORD.unpack_from(buffer, here)
            if stamp != offset or length > self.size - _RECORD.size:
                return
            size = _RECORD.size + length
            if here + size > len(buffer):
                start, buffer, here = offset, self._read(offset, max(256 * 1024, size)), 0
            body = buffer[here + _AFTER_CHECKSUM : here + size]
            if zlib.crc32(body) != checksum:
                return
            offset += size
            yield Record(kind, request_id, body[_RECORD.size - _AFTER_CHECKSUM :], offset)

    def advance(self, offset: int) -> None:
        """The records before `offset` are no longer needed."""
        os.pwrite(self._fd, _FILE.pack(_MAGIC, self.size, offset), 0)
        self.head = offset

    def close(self) -> None:
        """Closes the file and lets another process have it."""
        os.close(self._fd)

    def _read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size)
        place = offset % self.size
        data = os.pread(self._fd, min(length, self.size - place), _FILE.size + place)
        if len(data) < length:
            data += os.pread(self._fd, length - len(data), _FILE.size)
        return data
