"""DBN files as bytes: decompressed, cut into whole records, with nothing lost in silence."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import databento_dbn as dbn
import numpy as np
import numpy.typing as npt
import zstandard

from streams.recording import RecordingError

__all__ = ["Bytes", "blocks", "open_dbn", "read_header", "runs"]

_HEADER_BYTES: Final = 16
_BLOCK_BYTES: Final = 8 << 20
_VERSIONS: Final = (1, 2, 3)

Bytes: TypeAlias = npt.NDArray[np.uint8]


def runs(block: Bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, count, bytes each) of neighbours of one length, for whole records."""
    at, window = 0, 64
    while at < len(block):
        size = int(block[at]) * 4
        lengths = block[at : at + window * size : size]
        other = lengths != block[at]
        count = int(other.argmax()) if other.any() else len(lengths)
        yield at, count, size
        at += count * size
        window = min(window * 4, 1 << 16) if count == window else 64


def blocks(stream: BinaryIO, path: Path) -> Iterator[Bytes]:
    """Yield the records in blocks that end where a record ends; each is void after the next."""
    buffer = bytearray(_BLOCK_BYTES)
    view = memoryview(buffer)
    data = np.frombuffer(buffer, np.uint8)
    held, passed = 0, stream.tell()
    while got := _fill(stream, view[held:], path):
        held += got
        end = _whole_records(data[:held], passed, path)
        yield data[:end]
        rest = bytes(view[end:held])
        view[: len(rest)] = rest
        held, passed = len(rest), passed + end
    if held:
        raise RecordingError(
            f"{path} ends after {held} of {int(data[0]) * 4} bytes of a record, at byte {passed} "
            f"of its (decompressed) content; records must be whole, so it is truncated. "
            f"Fetch it again"
        )


def _whole_records(data: Bytes, passed: int, path: Path) -> int:
    """Return where the last whole record ends."""
    at, window = 0, 64
    while at < len(data):
        size = int(data[at]) * 4
        if size < _HEADER_BYTES:
            raise RecordingError(
                f"{path}: the record at byte {passed + at} of the (decompressed) content says that "
                f"it is {size} bytes long, must be at least {_HEADER_BYTES}; "
                f"the file is damaged. Fetch it again"
            )
        whole = min((len(data) - at) // size, window)
        if not whole:
            break
        other = data[at : at + whole * size : size] != data[at]
        count = int(other.argmax()) if other.any() else whole
        at += count * size
        window = min(window * 4, 1 << 16) if count == window else 64
    return at


def _fill(stream: BinaryIO, room: memoryview, path: Path) -> int:
    got = 0
    try:
        while got < len(room) and (more := cast(io.BufferedReader, stream).readinto(room[got:])):
            got += more
    except (zstandard.ZstdError, OSError) as error:
        raise RecordingError(
            f"{path} cannot be read ({error}); it is damaged. Fetch it again"
        ) from error
    return got


def read_header(stream: BinaryIO, path: Path) -> tuple[int, dbn.Metadata]:
    """Read version and metadata, and leave the stream at the first record."""
    start = bytearray(8)
    got = _fill(stream, memoryview(start), path)
    if start[:3] != b"DBN"[:got] or not got:
        raise RecordingError(
            f"{path} begins with {bytes(start[:got])!r}, a DBN file must begin with b'DBN' (or be "
            f"a zstd-compressed one); give a .dbn or .dbn.zst file"
        )
    if got == len(start) and start[3] not in _VERSIONS:
        raise RecordingError(
            f"{path} is DBN version {start[3]}, this program reads "
            f"{', '.join(map(str, _VERSIONS))}; upgrade marblemaker"
        )
    length = int.from_bytes(start[4:], "little")
    body = bytearray()
    while len(body) < length and got == len(start):
        piece = bytearray(min(length - len(body), 1 << 20))
        more = _fill(stream, memoryview(piece), path)
        body += piece[:more]
        if not more:
            break
    if got < len(start) or len(body) < length:
        raise RecordingError(
            f"{path} ends within its header, after {got + len(body)} bytes; the header must be "
            f"whole, so the file is truncated. Fetch it again"
        )
    try:
        metadata = dbn.Metadata.decode(
            bytes(start + body),
            upgrade_policy=cast(Any, dbn.VersionUpgradePolicy.AS_IS),  # the stub calls it an int
        )
    except BaseException as error:
        # What a damaged header makes the vendor's library do is sometimes a panic, which is no
        # Exception and has no name to import.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RecordingError(
            f"{path} has a header that cannot be decoded ({error}); the file is damaged. "
            f"Fetch it again"
        ) from error
    return int(start[3]), metadata


# ---------------------------------------------------------------- compression

_ZSTD_MAGIC: Final = 0xFD2FB528
_SKIPPABLE_MAGIC: Final = 0x184D2A50  # and the 15 after it
_ZSTD_HEADER_MAX: Final = 18
_RLE_BLOCK: Final = 1
_RESERVED_BLOCK: Final = 3


def open_dbn(path: Path) -> BinaryIO:
    """Open a file for reading, decompressed if need be."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be opened ({error.strerror}); give a DBN file that can be read"
        ) from error
    if stream.read(4) != _ZSTD_MAGIC.to_bytes(4, "little"):
        stream.seek(0)
        return stream
    try:
        _require_whole_frames(stream, path)
    except BaseException:
        stream.close()
        raise
    stream.seek(0)
    reader = zstandard.ZstdDecompressor().stream_reader(
        stream, read_size=1 << 18, read_across_frames=True, closefd=True
    )
    return cast(BinaryIO, reader)


def _require_whole_frames(stream: BinaryIO, path: Path) -> None:
    """Walk the compressed frames: the decompressor takes a cut between two blocks for the end.

    Source: RFC 8878, section 3.1.
    """
    size = stream.seek(0, io.SEEK_END)
    at = 0
    while at < size:
        stream.seek(at)
        head = stream.read(_ZSTD_HEADER_MAX)
        magic = int.from_bytes(head[:4], "little")
        if magic & ~0xF == _SKIPPABLE_MAGIC and len(head) >= 8:
            at += 8 + int.from_bytes(head[4:8], "little")
            continue
        try:
            parameters = zstandard.get_frame_parameters(head)
            at = _blocks_end(stream, at + zstandard.frame_header_size(head))
        except (zstandard.ZstdError, EOFError) as error:
            raise RecordingError(
                f"{path} is not whole zstd frames (near byte {at} of {size}: {error}); it is "
                f"truncated or damaged. Fetch it again"
            ) from error
        at += 4 if parameters.has_checksum else 0
    if at > size:
        raise RecordingError(
            f"{path} has {size} bytes, its zstd frames need {at}; it is truncated. Fetch it again"
        )


def _blocks_end(stream: BinaryIO, at: int) -> int:
    while True:
        stream.seek(at)
        head = stream.read(3)
        if len(head) < 3:
            raise EOFError("a block is missing")
        word = int.from_bytes(head, "little")
        last, kind, length = word & 1, word >> 1 & 3, word >> 3
        if kind == _RESERVED_BLOCK:
            raise EOFError("a block of no known kind")
        at += 3 + (1 if kind == _RLE_BLOCK else length)
        if last:
            return at
