"""Digests: rolling 64-bit hashes over exact bits, and what turns values into bits.

A value is a row of 64-bit words: an integer is its two's complement, a double its bits, a text the
FNV-1a hash of its UTF-8, an absent one ``NULL``. Every word is mixed into the state by a bijection,
so that two rows that differ in one word never give the same state. The loops are compiled; so would
be a compiled engine's, which calls ``mixed`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from operators.tap import Tape

__all__ = [
    "NULL", "SEED", "Packed", "Rolling", "cut", "fnv1a", "mixed", "new_tape", "warm_up",
    "warm_up_quotes", "words_of_frame",
]  # fmt: skip

Words: TypeAlias = NDArray[np.uint64]

NULL: Final = 0x7FF4_DEAD_BEEF_0001
"""The word of what is absent: a signalling NaN, which no arithmetic makes."""
SEED: Final = 0x9E37_79B9_7F4A_7C15

_NULL: Final = np.uint64(NULL)
_MULTIPLY: Final = np.uint64(0xBF58_476D_1CE4_E5B9)
_AGAIN: Final = np.uint64(0x94D0_49BB_1331_11EB)
_FNV_START: Final = np.uint64(0xCBF2_9CE4_8422_2325)
_FNV_PRIME: Final = np.uint64(0x0000_0100_0000_01B3)
_29, _32 = np.uint64(29), np.uint64(32)


def mixed(state: Any, word: Any) -> Any:
    """Mix one word into a state; both unsigned 64-bit, and so is the result; a step.

    For a given state it is a bijection of the word, for a given word one of the state.
    """
    x = (state ^ word) * _MULTIPLY
    x = (x ^ (x >> _29)) * _AGAIN
    return x ^ (x >> _32)


_mixed = njit(inline="always")(mixed)


@njit(cache=True, nogil=True)
def _fold(
    state: np.uint64,
    count: int,
    words: Words,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    every: int,
    marks: NDArray[np.int64],
    digests: Words,
) -> tuple[np.uint64, int]:
    """Mix rows into a state; note row number and digest after each ``every`` of all rows."""
    marked = 0
    for k in range(len(rows)):
        row = rows[k]
        for column in columns:
            state = _mixed(state, words[column, row])
        count += 1
        if count % every == 0:
            marks[marked] = row
            digests[marked] = state
            marked += 1
    return state, marked


@njit(cache=True, nogil=True)
def _fold_quotes(
    state: np.uint64,
    count: int,
    seq: Words,
    ts: Words,
    ts_event: Words,
    bid_px: Words,
    ask_px: Words,
    bid_sz: Words,
    ask_sz: Words,
    flags: NDArray[np.uint8],
    every: int,
    marks: NDArray[np.int64],
    digests: Words,
) -> tuple[np.uint64, int]:
    """Mix quotes into a state, column by column; see ``_fold``."""
    marked = 0
    for k in range(len(seq)):
        state = _mixed(_mixed(_mixed(state, seq[k]), ts[k]), ts_event[k])
        state = _mixed(_mixed(state, bid_px[k]), ask_px[k])
        state = _mixed(_mixed(state, bid_sz[k]), ask_sz[k])
        state = _mixed(state, np.uint64(flags[k]))
        count += 1
        if count % every == 0:
            marks[marked] = k
            digests[marked] = state
            marked += 1
    return state, marked


class Rolling:
    """The digest of one operator so far, and its checkpoints."""

    def __init__(self, every: int) -> None:
        """Note a checkpoint after each ``every`` rows."""
        self.every = every
        self.n = 0
        """Rows so far."""
        self.digest: Any = SEED
        """The state, an unsigned integer of 64 bits."""
        self.seq = 0
        """Of the last row."""
        self.ts = 0
        self._checkpoints: list[tuple[NDArray[Any], ...]] = []

    def take(
        self, words: Words, rows: NDArray[np.int64], columns: NDArray[np.int64],
        seqs: Words, times: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Take in some rows of a table of words, a line a column.

        ``seqs`` and ``times`` are those of all rows.
        """
        if not len(rows):
            return
        marks, digests = self._room(len(rows))
        self.digest, marked = _fold(
            np.uint64(self.digest), self.n, words, rows, columns, self.every, marks, digests
        )
        self._note(marks[:marked], digests, len(rows), seqs, times, int(rows[-1]))

    def take_quotes(self, columns: Sequence[NDArray[Any]]) -> None:
        """Take in quotes: the columns of ``streams.recording.QUOTE_SCHEMA`` in that order.

        All are of 64 bits but the last, the flags; an absent number is ``NULL``.
        """
        seqs, *numbers = (column.view(np.uint64) for column in columns[:-1])
        rows = len(seqs)
        marks, digests = self._room(rows)
        fold: Callable[..., Any] = _fold_quotes
        self.digest, marked = fold(
            np.uint64(self.digest), self.n, seqs, *numbers, columns[-1], self.every, marks, digests
        )
        self._note(marks[:marked], digests, rows, seqs, columns[1], rows - 1)

    def _room(self, rows: int) -> tuple[NDArray[np.int64], Words]:
        room = rows // self.every + 1
        return np.empty(room, np.int64), np.empty(room, np.uint64)

    def _note(
        self, marks: NDArray[np.int64], digests: Words, rows: int, seqs: Words,
        times: NDArray[np.int64], last: int,
    ) -> None:  # fmt: skip
        """Keep the checkpoints, and count on."""
        if len(marks):
            n = (self.n // self.every + 1 + np.arange(len(marks))) * self.every
            at = n, seqs[marks], times[marks], digests[: len(marks)]
            self._checkpoints.append(at)
        self.n += rows
        self.seq, self.ts = int(seqs[last]), int(times[last])

    def checkpoints(self, *, end: bool = False) -> tuple[NDArray[Any], ...]:
        """Columns n, seq, ts and digest: a row after each ``every`` rows, and at the ``end``."""
        parts = list(self._checkpoints)
        if end and self.n % self.every:
            parts.append(self._row(self.n, self.seq, self.ts, self.digest))
        return tuple(np.concatenate(column) for column in zip(self._row(), *parts, strict=True))

    @staticmethod
    def _row(*values: int) -> tuple[NDArray[Any], ...]:
        """One checkpoint as columns, or none."""
        kinds = np.int64, np.uint64, np.int64, np.uint64
        return tuple(np.array(values[k : k + 1], kind) for k, kind in enumerate(kinds))


# ---------------------------------------------------------------- structs as words

_write: Final = msgspec.msgpack.Encoder().encode_into


def new_tape() -> Tape:
    """An empty tape, on which values keep their bits."""
    return Tape(_write, bytearray())


def cut(tape: Tape) -> bytes:
    """What is on a tape, which is empty then."""
    written = bytes(tape.buffer)
    tape.buffer.clear()
    return written


def warm_up() -> None:
    """Have the loops compiled, or loaded from the cache, before anybody waits for them."""
    tape = new_tape()
    tape.write({"seq": 1, "ts": -1, "px": None, "mid": 0.5, "by": "nobody"}, tape.buffer, -1)
    words = Packed(cut(tape), 5).words
    one = np.zeros(1, np.int64)
    Rolling(1).take(words, one, one, words[0], words[1].view(np.int64))


def warm_up_quotes() -> None:
    """The same of the loop over quotes in columns."""
    one = np.zeros(1, np.int64)
    Rolling(1).take_quotes((*[one] * 7, np.zeros(1, np.uint8)))


class Packed:
    """What was on a tape as a table of words.

    ``words`` has a line for each field, those of nested Structs one after the other, and a column
    for each value; ``widths`` tells how many fields a value has.
    """

    def __init__(self, buffer: bytes, width: int) -> None:
        """Unpack; ``width`` is the most fields that a value may have.

        Errors: ValueError if something else is in the buffer, or a value has more fields.
        """
        self._buffer = buffer
        data = np.frombuffer(buffer, np.uint8)
        # A value takes up more than a byte a field, of the fewest that one has.
        room = len(data) // 16 + 1
        words = np.empty((width, room), np.uint64)
        widths, starts = np.empty(room, np.int64), np.empty(room + 1, np.int64)
        self.height = int(_unpack(data, words, widths, starts))
        if self.height < 0:
            raise ValueError(f"value {-1 - self.height} cannot be read as at most {width} fields")
        self.words, self.widths = words[:, : self.height], widths[: self.height]
        self._starts = starts

    def bytes_of(self, row: int) -> bytes:
        """A value as it was written."""
        return self._buffer[self._starts[row] : self._starts[row + 1]]

    def value(self, row: int) -> Any:
        """A value in plain lists and dictionaries: for its texts."""
        return msgspec.msgpack.decode(self.bytes_of(row))


@njit(cache=True, nogil=True)
def _big_endian(data: NDArray[np.uint8], pos: int, size: Any) -> np.uint64:
    value = np.uint64(0)
    for k in range(size):
        value = (value << np.uint64(8)) | np.uint64(data[pos + k])
    return value


@njit(cache=True, nogil=True)
def _is_container(kind: int) -> bool:
    return 0x80 <= kind <= 0x9F or kind == 0xDE


@njit(cache=True, nogil=True)
def _unpack(
    data: NDArray[np.uint8],
    words: Words,
    widths: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> int:
    """Fill the table; return the number of rows, or -1 minus the one that could not be read."""
    width, room = words.shape
    size: Any
    fields: Any
    digits: Any
    pos, row = 0, 0
    while pos < len(data):
        if row >= room:
            return -1 - row
        starts[row] = pos
        column = 0
        structs = 1
        kind = data[pos]
        if 0x90 <= kind <= 0x9F and _is_container(data[pos + 1]):
            structs = kind & 0x0F
            pos += 1
        for _ in range(structs):
            kind = data[pos]
            pos += 1
            named = True
            if 0x80 <= kind <= 0x8F:
                fields = np.int64(kind & 0x0F)
            elif kind == 0xDE:
                fields = np.int64(_big_endian(data, pos, 2))
                pos += 2
            elif 0x90 <= kind <= 0x9F:
                named, fields = False, np.int64(kind & 0x0F)
            else:
                return -1 - row
            for _ in range(fields):
                if named:
                    key = data[pos]
                    if 0xA0 <= key <= 0xBF:
                        pos += 1 + (key & 0x1F)
                    elif key == 0xD9:
                        pos += 2 + data[pos + 1]
                    else:
                        return -1 - row
                if column >= width:
                    return -1 - row
                kind = data[pos]
                pos += 1
                word = np.uint64(0)
                if kind <= 0x7F:
                    word = np.uint64(kind)
                elif kind >= 0xE0:
                    word = np.uint64(np.int64(kind) - 256)
                elif kind == 0xC0:
                    word = _NULL
                elif kind == 0xC2 or kind == 0xC3:
                    word = np.uint64(kind - 0xC2)
                elif kind == 0xCB:
                    word = _big_endian(data, pos, 8)
                    pos += 8
                elif 0xCC <= kind <= 0xCF:
                    size = 1 << np.int64(kind - 0xCC)
                    word = _big_endian(data, pos, size)
                    pos += size
                elif 0xD0 <= kind <= 0xD3:
                    size = 1 << np.int64(kind - 0xD0)
                    word = _big_endian(data, pos, size)
                    pos += size
                    # Those of fewer than 64 bits keep their sign.
                    shift = np.uint64(64 - 8 * size)
                    word = np.uint64(np.int64(word << shift) >> np.int64(shift))
                else:
                    size = np.int64(0)
                    if 0xA0 <= kind <= 0xBF:
                        size = np.int64(kind & 0x1F)
                    elif 0xD9 <= kind <= 0xDB:
                        digits = 1 << np.int64(kind - 0xD9)
                        size = np.int64(_big_endian(data, pos, digits))
                        pos += digits
                    else:
                        return -1 - row
                    word = _FNV_START
                    for k in range(size):
                        word = (word ^ np.uint64(data[pos + k])) * _FNV_PRIME
                    pos += size
                words[column, row] = word
                column += 1
        for rest in range(column, width):
            words[rest, row] = _NULL
        widths[row] = column
        row += 1
    starts[row] = pos
    return row


def fnv1a(text: str) -> int:
    """The word of a text: 64-bit FNV-1a of its UTF-8.

    Source: G. Fowler, L. C. Noll, K.-P. Vo, the FNV hash, variant 1a.
    """
    value = int(_FNV_START)
    for byte in text.encode():
        value = (value ^ byte) * int(_FNV_PRIME) & 0xFFFF_FFFF_FFFF_FFFF
    return value


# ---------------------------------------------------------------- frames as words


def words_of_frame(frame: pl.DataFrame) -> Words:
    """A frame as a table of words, a line for each of its columns."""
    words = np.empty((frame.width, frame.height), np.uint64)
    for k, series in enumerate(frame.get_columns()):
        if series.null_count() == frame.height:
            words[k] = _NULL
            continue
        words[k] = _words_of_series(series)
        if series.null_count():
            words[k, series.is_null().to_numpy()] = _NULL
    return words


def _words_of_series(series: pl.Series) -> Any:
    """Words of a column; of what is absent, any."""
    if series.dtype == pl.String:
        texts = {text: fnv1a(text) for text in series.drop_nulls().unique().to_list()}
        return np.array([texts.get(text, NULL) for text in series.to_list()], np.uint64)
    if series.null_count():
        series = series.fill_null(0.0 if series.dtype == pl.Float64 else 0)
    values = series.to_numpy()
    if values.dtype in (np.float64, np.int64):
        return values.view(np.uint64)
    return values.astype(np.int64).view(np.uint64) if values.dtype != np.uint64 else values
