"""The flight recorder: every input of a live run on disk before the graph sees it.

While a run lasts, inputs go to Arrow IPC stream segments in ``segments/``, one series of files for
each input file, in batches that a thread writes; see ``docs/formats.md``. At the end they become
the Parquet files that a replay writes, byte for byte. What a killed run leaves,
``marblemaker.salvage`` turns into a recording.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import re
import shutil
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import polars as pl
from msgspec import Struct, field

from sinks.journal import Digest
from streams.events import SIDE_NAMES, AccountEvent, Quote, Status, Trade
from streams.recording import (
    BATCH_ROWS,
    FILES,
    MANIFEST,
    FileEntry,
    FrameWriter,
    Manifest,
    RecordingError,
    checked_rows,
    scan_frames,
    schema_of,
    write_manifest,
)

__all__ = [
    "LOCK",
    "SEGMENTS",
    "SESSION",
    "Damage",
    "Recorder",
    "Session",
    "compact",
    "lock_session",
    "read_mark",
    "read_raw",
    "read_segments",
    "read_session",
    "read_table",
    "remove_session",
]

LOCK: Final = "session.lock"
SEGMENTS: Final = "segments"
SESSION: Final = "session.json"
_MARK: Final = "session.mark"
_COMPACTING: Final = "compacting"
_RAW: Final = "raw"

_MARK_FORMAT: Final = struct.Struct("<qq")
_RAW_MAGIC: Final = b"MARBRAW1"
_RAW_FORMAT: Final = struct.Struct("<qI")
_RAW_SEGMENT_BYTES: Final = 256 * 2**20
_RAW_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

# Arrow columnar format, "Encapsulated message format": a continuation marker, the length of the
# metadata, the metadata (a flatbuffer, padded), the body; a length of 0 ends the stream.
_MESSAGE: Final = struct.Struct("<Ii")
_CONTINUATION: Final = 0xFFFFFFFF
_END: Final = _MESSAGE.pack(_CONTINUATION, 0)
_MAX_METADATA: Final = 2**20
_READ_BYTES: Final = 8 * 2**20

# Turning a chunk of this size into columns keeps the graph's thread waiting for less than 1 ms.
_CHUNK_ROWS: Final = 1_024
_STOP_SECONDS: Final = 60.0

Input: TypeAlias = Quote | Trade | Status | AccountEvent


# ---------------------------------------------------------------- session


class Session(Struct, kw_only=True):
    """``session.json``: what a run is while it lasts, enough to make a manifest of its remains."""

    schema_version: int = 1
    pid: int
    started: int
    """When the run began, ns."""
    flush_ms: int
    first_seq: int
    """Number of the first input; those that follow have no gap."""
    names: list[str]
    """Files of inputs, of ``streams.recording.FILES``."""
    manifest: Manifest
    compacted: dict[str, FileEntry] = field(default_factory=dict)
    """Files of inputs, once all of them are Parquet and verified; from then on segments are
    leftovers."""


def read_session(folder: Path) -> Session | None:
    """The session of a run that has not ended in order; ``None`` if there is none.

    Errors: RecordingError if the file cannot be understood.
    """
    path = folder / SESSION
    try:
        session = msgspec.json.decode(path.read_bytes(), type=Session)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, ValueError) as error:
        raise RecordingError(
            f"{path} is not a session's ({error}); without it the segments cannot become a "
            f"recording. Restore it from a copy, or read the segments with Polars"
        ) from error
    unknown = [name for name in session.names if name not in FILES]
    if session.schema_version != 1 or unknown:
        raise RecordingError(f"{path} was written by a newer version; upgrade marblemaker")
    return session


def _write_session(folder: Path, session: Session) -> None:
    unfinished = folder / f".{SESSION}.partial"
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(session)) + b"\n")
    os.replace(unfinished, folder / SESSION)


def lock_session(folder: Path, *, create: bool = False) -> int | None:
    """Take the lock that a run holds while it lasts; ``None`` if another process has it.

    The lock goes with the process, however that ends. Close the descriptor to give it back.
    """
    flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
    handle = os.open(folder / LOCK, flags, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def remove_session(folder: Path) -> None:
    """Remove what says that a run has not ended; segments are not touched."""
    for name in (_MARK, SESSION, LOCK):
        (folder / name).unlink(missing_ok=True)


def read_mark(folder: Path) -> tuple[int, int] | None:
    """``seq`` and ``ts`` of the last input that was taken, flushed or not; ``None`` if not known.

    Both are 0 when none was taken.

    They are exact after the end of the process, not after that of the machine.
    """
    try:
        found = (folder / _MARK).read_bytes()
    except OSError:
        return None
    if len(found) != _MARK_FORMAT.size:
        return None
    seq, ts = _MARK_FORMAT.unpack(found)
    return seq, ts


# ---------------------------------------------------------------- segments


class _Appender:
    """A series of files ``STEM.00001.SUFFIX`` … that only ever grow by whole payloads."""

    def __init__(self, folder: Path, stem: str, suffix: str, *, limit: int, fsync: bool) -> None:
        """Begin the next file when one holds ``limit`` of what payloads are counted in."""
        self._folder = folder
        self._stem = stem
        self._suffix = suffix
        self._limit = limit
        self._fsync = fsync
        self._number = 0
        self._handle: int | None = None
        self._bytes = 0
        self._amount = 0

    def append(self, header: bytes, payload: bytes, amount: int, trailer: bytes) -> None:
        """Add a payload; a new file starts with ``header`` and a full one ends with ``trailer``.

        Errors: OSError; then the file is as it was, and the same payload can be tried again.
        """
        if self._handle is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._stem}.{self._number + 1:05d}.{self._suffix}"
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            self._number += 1
            self._bytes = self._amount = 0
        self._write(payload if self._bytes else header + payload)
        self._amount += amount
        if self._amount >= self._limit:
            self.end(trailer)

    def end(self, trailer: bytes) -> None:
        """End the present file; the trailer is a courtesy to readers and may be missing."""
        if self._handle is None:
            return
        with suppress(OSError):
            self._write(trailer)
        handle, self._handle = self._handle, None
        with suppress(OSError):
            os.close(handle)

    def _write(self, payload: bytes) -> None:
        assert self._handle is not None
        rest = memoryview(payload)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            if self._fsync:
                os.fsync(self._handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, self._bytes)
            raise
        self._bytes += len(payload)


def _frame(name: str, events: Sequence[Any]) -> pl.DataFrame:
    """Rows of one file, in its schema."""
    columns = []
    for column, dtype in schema_of(name).items():
        values: list[Any]
        if column == "trade_id":  # public trades carry none past the feed
            values = [None] * len(events)
        elif column == "side":
            values = [SIDE_NAMES.get(event.side) for event in events]
        else:
            values = list(map(attrgetter(column), events))
        columns.append(pl.Series(column, values, dtype=dtype, strict=True))
    return pl.DataFrame(columns)


def _encode(frame: pl.DataFrame) -> tuple[bytes, bytes]:
    """The messages of an IPC stream: the schema's, and those of the rows without the end."""
    buffer = io.BytesIO()
    # The oldest layout of text is the one that every reader of Arrow knows.
    frame.write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    whole = buffer.getvalue()
    cut = _MESSAGE.size + _MESSAGE.unpack_from(whole)[1]
    assert whole.endswith(_END)
    return whole[:cut], whole[cut : -len(_END)]


class Damage(Struct, frozen=True):
    """A segment that does not hold whole batches from its begin to its end."""

    path: Path
    text: str
    torn: bool
    """Only its last batch was not finished: what a killed writer leaves."""


def read_segments(folder: Path, name: str, damage: list[Damage]) -> Iterator[pl.DataFrame]:
    """Yield the rows of one file of inputs from its segments: all whole batches, in order.

    What cannot be read is appended to ``damage``; later segments are still read, so that rows may
    be missing in between.
    """
    for path in sorted((folder / SEGMENTS).glob(f"{name}.[0-9]*.arrows")):
        yield from _segment(path, name, damage)


def _segment(path: Path, name: str, damage: list[Damage]) -> Iterator[pl.DataFrame]:
    try:
        with path.open("rb") as stream:
            messages = _messages(stream, path, damage)
            schema = next(messages, b"")
            held: list[bytes] = []
            for message in messages:
                held.append(message)
                if sum(map(len, held)) >= _READ_BYTES or len(held) >= _CHUNK_ROWS:
                    yield from _decoded(schema, held, path, name, damage)
                    held = []
            if held:
                yield from _decoded(schema, held, path, name, damage)
    except OSError as error:
        damage.append(Damage(path, f"cannot be read ({error.strerror or error})", torn=False))


def _messages(stream: Any, path: Path, damage: list[Damage]) -> Iterator[bytes]:
    size = os.fstat(stream.fileno()).st_size
    at = 0
    while at < size:
        prefix = stream.read(_MESSAGE.size)
        length = 0
        if len(prefix) == _MESSAGE.size:
            marker, length = _MESSAGE.unpack(prefix)
            if prefix == _END:
                if at + _MESSAGE.size != size:
                    damage.append(Damage(path, "goes on after its end", torn=False))
                return
            if marker != _CONTINUATION or not 0 < length <= _MAX_METADATA:
                damage.append(Damage(path, f"is no Arrow stream at byte {at}", torn=False))
                return
        metadata = stream.read(length)
        body = 0
        if len(prefix) == _MESSAGE.size and len(metadata) == length:
            try:
                body = _body_length(metadata)
            except struct.error:
                body = -1
            if body < 0:
                damage.append(Damage(path, f"is no Arrow stream at byte {at}", torn=False))
                return
        end = at + _MESSAGE.size + length + body
        if len(prefix) < _MESSAGE.size or len(metadata) < length or end > size:
            text = f"ends with {size - at} bytes of an unfinished batch"
            damage.append(Damage(path, text, torn=True))
            return
        yield prefix + metadata + stream.read(body)
        at = end


def _body_length(metadata: bytes) -> int:
    """``bodyLength`` of a ``Message`` (Message.fbs): the fourth field; 0 when it is absent."""
    (table,) = struct.unpack_from("<I", metadata)
    (back,) = struct.unpack_from("<i", metadata, table)
    fields = table - back
    if fields < 0:
        raise struct.error
    (size,) = struct.unpack_from("<H", metadata, fields)
    if size < 12:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, fields + 10)
    length: int = struct.unpack_from("<q", metadata, table + offset)[0] if offset else 0
    return length


def _decoded(
    schema: bytes, messages: Sequence[bytes], path: Path, name: str, damage: list[Damage]
) -> Iterator[pl.DataFrame]:
    try:
        frame = pl.read_ipc_stream(io.BytesIO(schema + b"".join(messages) + _END)).rechunk()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        if len(messages) > 1:
            # One of them is damaged; those before it are not.
            for message in messages:
                yield from _decoded(schema, [message], path, name, damage)
            return
        text = (str(error).splitlines() or [type(error).__name__])[0]
        damage.append(Damage(path, f"holds a batch that cannot be read ({text})", torn=False))
        return
    if frame.schema != schema_of(name):
        damage.append(Damage(path, f"does not have the columns of {name}", torn=False))
    elif frame.height:
        yield frame


def compact(
    folder: Path,
    name: str,
    batches: Iterable[pl.DataFrame],
    *,
    into: Path | None = None,
    schema: pl.Schema | None = None,
) -> FileEntry:
    """Make ``NAME.parquet`` of rows, in ``into`` (default: ``folder``): whole or not at all.

    The file has the bytes that ``FrameWriter`` writes, and is read back and compared before it
    takes its place. ``schema`` is that of a table that is no file of inputs.

    Errors: OSError; RecordingError if what is read back is unsound or differs.
    """
    read: Callable[[Path], Iterator[pl.DataFrame]]
    if schema is None:
        schema, read = schema_of(name), partial(checked_rows, name)
    else:
        read = read_table
    work = folder / SEGMENTS / _COMPACTING
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        writer = FrameWriter(work, name, schema)
        wanted, found = Digest(schema), Digest(schema)
        for batch in batches:
            wanted.update(batch)
            writer.append(batch)
        entry = writer.close()
        rows = 0
        for batch in read(writer.path):
            found.update(batch)
            rows += batch.height
        if rows != entry.rows or wanted.hexdigest() != found.hexdigest():
            raise RecordingError(
                f"{writer.path} does not read back as it was written; the segments are kept. "
                f"Check the disk"
            )
        os.replace(writer.path, (folder if into is None else into) / writer.path.name)
    except pl.exceptions.PolarsError as error:
        raise OSError(f"{name}.parquet cannot be written ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return entry


def read_table(path: Path) -> Iterator[pl.DataFrame]:
    """Yield the rows of a Parquet file in batches.

    Errors: RecordingError if it is no Parquet file; PolarsError or OSError if it is damaged.
    """
    return (
        batch
        for batch in scan_frames(path).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
        if batch.height
    )


# ---------------------------------------------------------------- raw frames


def read_raw(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the frames of a file that ``Recorder.record_raw`` made, with their ``ts``.

    A last frame that was not finished is left out.

    Errors: RecordingError if the file is of another kind.
    """
    with path.open("rb") as stream:
        magic = stream.read(len(_RAW_MAGIC))
        if magic != _RAW_MAGIC[: len(magic)]:
            raise RecordingError(f"{path} does not hold raw frames of a recorder")
        while len(prefix := stream.read(_RAW_FORMAT.size)) == _RAW_FORMAT.size:
            ts, length = _RAW_FORMAT.unpack(prefix)
            data = stream.read(length)
            if len(data) < length:
                return
            yield ts, data


# ---------------------------------------------------------------- recorder


class _Write(Struct):
    """One payload on its way to its file."""

    appender: _Appender
    header: bytes
    payload: bytes
    amount: int
    trailer: bytes = b""

    def run(self) -> None:
        self.appender.append(self.header, self.payload, self.amount, self.trailer)


class Recorder:
    """Takes every input before it is dispatched, and has it on disk moments later.

    After ``kill -9`` everything up to the last flush is there, and how much came after it is known
    to the event. With ``fsync`` that holds for a loss of power too, but for the last part.

    ``start``, ``record`` and ``record_raw`` belong to one thread. ``on_failure`` is called once,
    with a sentence for people, from whichever thread noticed: it should only hand the reason on.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        flush_ms: int = 100,
        on_failure: Callable[[str], None],
        max_backlog_rows: int = 262_144,
        max_backlog_bytes: int = 64 * 2**20,
        flush_rows: int = 1_024,
        segment_rows: int = 4_194_304,
        fsync: bool = False,
    ) -> None:
        """Record the files ``names`` of ``streams.recording.FILES`` into ``folder``.

        A flush comes after ``flush_ms``, or ``flush_rows`` inputs if that is sooner. With more than
        ``max_backlog_rows`` inputs, or ``max_backlog_bytes`` of raw frames, that are not written
        the recorder has failed; inputs are taken up to twice as many.
        """
        unknown = [name for name in names if name not in FILES]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"names must be different ones of {', '.join(FILES)}, were {names!r}")
        for what, value in (
            ("flush_ms", flush_ms), ("flush_rows", flush_rows), ("segment_rows", segment_rows),
            ("max_backlog_rows", max_backlog_rows), ("max_backlog_bytes", max_backlog_bytes),
        ):  # fmt: skip
            if value <= 0:
                raise ValueError(f"{what} must be positive, was {value}")
        self.folder = folder
        self.failed: str | None = None
        """Why quoting must stop; ``None`` while all is well."""
        self._on_failure = on_failure
        self._failing = threading.Lock()
        self._flush_ms = flush_ms
        self._flush_rows = flush_rows
        self._max_rows = max_backlog_rows
        self._max_bytes = max_backlog_bytes
        self._fsync = fsync
        self._appenders = {
            name: _Appender(folder / SEGMENTS, name, "arrows", limit=segment_rows, fsync=fsync)
            for name in names
        }
        self._raw_appenders: dict[str, _Appender] = {}
        self._session: Session | None = None
        self._lock: int | None = None
        self._mark = -1
        self._page: mmap.mmap | None = None
        self._note: Callable[[int, int], None] = self._note_by_write
        # Filled by the caller's thread at the end, emptied by the writer's at the begin: every
        # single operation on a list is atomic, so neither waits for the other.
        self._names: list[str] = []
        self._events: list[Input] = []
        self._raw: list[tuple[str, int, bytes]] = []
        self._next_seq = 0
        self._check_at = 0
        self._full = False
        self._taken = 0
        """Inputs taken, as of the last look; exact by ``_count``."""
        self._last_ts = 0
        self._raw_taken = 0
        # Of the writer's thread alone.
        self._queue: deque[_Write] = deque()
        self._rows: dict[str, int] = dict.fromkeys(names, 0)
        self._encoding: tuple[int, int, int] = (0, 0, 0)
        self._written = 0
        self._written_ts: int | None = None
        self._raw_written = 0
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def start(self, manifest: Manifest, *, started: int = 0, first_seq: int = 1) -> None:
        """Write down what the run is, and begin to record.

        ``started`` is now, ns. Inputs are numbered from ``first_seq`` without a gap.

        Errors: RecordingError if the folder cannot be written, or holds a recording already.
        """
        assert self._session is None, "start it once"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_session(self.folder, create=True)
            held = [n for n in (MANIFEST, SESSION, SEGMENTS) if (self.folder / n).exists()]
            if self._lock is None or held:
                what = "a run in progress" if self._lock is None else held[0]
                self._release()
                raise RecordingError(
                    f"{self.folder} holds {what} already; "
                    f"record into a new folder (`marble doctor` looks after what a killed run left)"
                )
            self._session = Session(
                pid=os.getpid(), started=started, flush_ms=self._flush_ms, first_seq=first_seq,
                names=list(self._appenders), manifest=manifest,
            )  # fmt: skip
            (self.folder / SEGMENTS).mkdir()
            self._mark = os.open(self.folder / _MARK, os.O_RDWR | os.O_CREAT, 0o644)
            os.pwrite(self._mark, _MARK_FORMAT.pack(0, 0), 0)
            self._page = mmap.mmap(self._mark, _MARK_FORMAT.size)
            _write_session(self.folder, self._session)
        except OSError as error:
            self._release()
            raise RecordingError(
                f"{self.folder} cannot be written: {error.strerror or error}; a run that cannot be "
                f"recorded does not start. Make room, or choose another folder"
            ) from error
        self._next_seq = self._check_at = first_seq
        # Into a mapped page: a write of its own for each input would give the interpreter away to
        # the writer's thread, and wait for it, a thousand times as long.
        self._note = partial(_MARK_FORMAT.pack_into, self._page, 0)
        self._thread = threading.Thread(target=self._run, name="marble-recorder", daemon=True)
        self._thread.start()

    # The caller's thread.

    def record(self, event: Input, name: str) -> None:
        """Take an input, numbered and stamped, of the file ``name``; call it before dispatching.

        It raises nothing: whether recording works is told by ``on_failure`` and ``failed``.
        """
        assert name in self._appenders, name
        seq, ts = event.seq, event.ts
        if seq != self._next_seq and not self._odd(seq):
            return
        self._next_seq = seq + 1
        self._note(seq, ts)
        if self._full:
            self._dropped += 1
            return
        self._last_ts = ts
        self._taken += 1
        self._names.append(name)
        # The event comes last: the writer counts events, and needs the name of each.
        self._events.append(event)
        if seq >= self._check_at:
            self._check(seq, ts)

    def record_raw(self, name: str, ts: int, data: bytes) -> None:
        """Take a frame as the vendor sent it, for ``raw/NAME.00001.bin`` …; never raises.

        Frames beyond ``max_backlog_bytes`` are not taken, and the recorder has failed.
        """
        assert _RAW_NAME.fullmatch(name), name
        size = len(data) + _RAW_FORMAT.size
        behind = self._raw_taken - self._raw_written
        if behind + size > self._max_bytes:
            self._fail(
                f"{self.folder}: the recorder fell behind: {behind:,} bytes of raw frames are not "
                f"written yet, at most {self._max_bytes:,} are held"
            )
            return
        self._raw_taken += size
        # A buffer of the network layer may change later; bytes stay, and are not copied.
        self._raw.append((name, ts, bytes(data)))

    @property
    def backlog(self) -> tuple[int, float]:
        """Inputs taken but not written, and how many ms of ``ts`` they span."""
        rows, since = self._taken - self._written, self._written_ts
        return rows, (self._last_ts - since) / 1e6 if rows and since is not None else 0.0

    def _note_by_write(self, seq: int, ts: int) -> None:
        with suppress(OSError):
            os.pwrite(self._mark, _MARK_FORMAT.pack(seq, ts), 0)

    def _odd(self, seq: int) -> bool:
        """Tell of a number that is not the next; a later one is taken, an earlier one is not."""
        self._fail(
            f"{self.folder}: input {seq} was given to the recorder where {self._next_seq} is next; "
            f"what is missing cannot be replayed, so quoting must stop"
        )
        return seq > self._next_seq

    def _check(self, seq: int, ts: int) -> None:
        if self._written_ts is None:
            self._written_ts = ts
        behind = self._taken - self._written
        if behind > self._max_rows:
            self._fail(
                f"{self.folder}: the recorder fell behind: {behind:,} inputs are not written yet, "
                f"at most {self._max_rows:,} are held; what is not recorded cannot be replayed, "
                f"so quoting must stop"
            )
            self._full = behind >= 2 * self._max_rows
        self._check_at = seq + min(self._flush_rows, max(self._max_rows // 8, 1))
        if behind >= self._flush_rows:
            self._wake.set()

    # The writer's thread.

    def _run(self) -> None:
        wait = self._flush_ms / 1000
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            last = self._stopping
            try:
                self._flush()
            except OSError as error:
                # What could not be written is kept and tried again: the disk may have room later.
                self._fail(self._cannot_write(error))
            except Exception as error:
                self._full = True
                self._fail(f"{self.folder}: the recorder cannot go on: {error!r}")
                return
            if last:
                return

    def _flush(self) -> None:
        """Write what is there now; what comes meanwhile is for the next time."""
        self._write()
        rest = len(self._events)
        while rest > 0:
            rest -= self._encode_rows(min(rest, _CHUNK_ROWS))
            self._write()
        if self._raw:
            self._encode_raw()
            self._write()

    def _write(self) -> None:
        queue = self._queue
        while queue:
            queue[0].run()
            queue.popleft()
        rows, ts, raw = self._encoding
        if rows:
            self._written += rows
            self._written_ts = ts
        self._raw_written += raw
        self._encoding = (0, 0, 0)

    def _encode_rows(self, count: int) -> int:
        names, events = self._names[:count], self._events[:count]
        del self._names[:count], self._events[:count]
        groups: dict[str, list[Input]] = {}
        for name, event in zip(names, events, strict=True):
            if name in groups:
                groups[name].append(event)
            else:
                groups[name] = [event]
        for name, rows in groups.items():
            schema, batch = _encode(_frame(name, rows))
            self._queue.append(_Write(self._appenders[name], schema, batch, len(rows), _END))
            self._rows[name] += len(rows)
        self._encoding = (count, events[-1].ts, 0)
        return count

    def _encode_raw(self) -> None:
        frames = self._raw[:]
        del self._raw[: len(frames)]
        parts: dict[str, list[bytes]] = {}
        for name, ts, data in frames:
            parts.setdefault(name, []).extend((_RAW_FORMAT.pack(ts, len(data)), data))
        total = 0
        for name, pieces in parts.items():
            if name not in self._raw_appenders:
                self._raw_appenders[name] = _Appender(
                    self.folder / _RAW, name, "bin", limit=_RAW_SEGMENT_BYTES, fsync=self._fsync
                )
            payload = b"".join(pieces)
            total += len(payload)
            appender = self._raw_appenders[name]
            self._queue.append(_Write(appender, _RAW_MAGIC, payload, len(payload)))
        self._encoding = (0, 0, total)

    # Both.

    def _fail(self, reason: str) -> None:
        with self._failing:
            if self.failed is not None:
                return
            self.failed = reason
            # Where a file system has no room, touching a mapped page may end the process.
            self._note = self._note_by_write
        self._on_failure(reason)

    def _cannot_write(self, error: OSError) -> str:
        return (
            f"{self.folder}: the recorder cannot write ({error.strerror or error}); what is not "
            f"recorded cannot be replayed, so quoting must stop. Make room, or check the disk"
        )

    # The end.

    def abandon(self) -> None:
        """Write what can be written and stop; the segments stay for ``marble doctor``."""
        try:
            self._stop()
        finally:
            self._release()

    def close(self) -> dict[str, FileEntry]:
        """Write everything, and turn the segments into Parquet files; call ``finish`` after it.

        Errors: RecordingError if inputs could not be written, or a Parquet file could not be made;
            then the segments stay for ``marble doctor``.
        """
        assert self._session is not None, "start it first"
        try:
            self._stop()
            entries = {name: self._compact(name) for name in self._appenders}
            self._session.compacted = entries
            _write_session(self.folder, self._session)
            shutil.rmtree(self.folder / SEGMENTS)
        except OSError as error:
            self._release()
            raise RecordingError(
                f"{self.folder} cannot be written: {error.strerror or error}; the segments are "
                f"kept. Make room, then let `marble doctor {self.folder}` finish the recording"
            ) from error
        except BaseException:
            self._release()
            raise
        return entries

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the folder a recording, and let go of it.

        Errors: OSError if it cannot be written; ``marble doctor`` can do it later.
        """
        try:
            write_manifest(self.folder, manifest)
            remove_session(self.folder)
        finally:
            self._release()

    def _compact(self, name: str) -> FileEntry:
        damage: list[Damage] = []
        entry = compact(self.folder, name, read_segments(self.folder, name, damage))
        if damage or entry.rows != self._rows[name]:
            told = damage[0].text if damage else f"holds {entry.rows} of {self._rows[name]} rows"
            where = damage[0].path if damage else self.folder / f"{name}.parquet"
            raise RecordingError(
                f"{where} {told}; the segments are kept. Check the disk, then let "
                f"`marble doctor {self.folder}` finish the recording"
            )
        return entry

    def _stop(self) -> None:
        """End the writer.

        Errors: RecordingError if something is left that could not be written.
        """
        if self._thread is None:
            return
        self._stopping = True
        self._wake.set()
        self._thread.join(_STOP_SECONDS)
        hangs = self._thread.is_alive()
        if not hangs:
            for appender in self._appenders.values():
                appender.end(_END)
            for appender in self._raw_appenders.values():
                appender.end(b"")
        left = self._taken - self._written + self._dropped
        if left or hangs or self._raw_taken > self._raw_written:
            raise RecordingError(
                f"{left:,} inputs could not be recorded: {self.failed or 'the disk hangs'}. "
                f"The segments are kept; let `marble doctor {self.folder}` make a recording of them"
            )

    def _release(self) -> None:
        self._note = self._note_by_write
        for handle in (self._mark, self._lock):
            if handle is not None and handle >= 0:
                os.close(handle)
        self._mark, self._lock, self._page = -1, None, None
