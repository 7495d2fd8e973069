"""Digests: exact bits in, the same digest in Python and compiled, no change goes unseen."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from marblemaker.digest import (
    NULL,
    SEED,
    Packed,
    Rolling,
    cut,
    fnv1a,
    mixed,
    new_tape,
    words_of_frame,
)

WORD = st.integers(0, 2**64 - 1)


class Value(Struct):
    number: int | None
    real: float | None
    text: str | None
    flag: bool


VALUES = st.builds(
    Value,
    st.none() | st.integers(-(2**63), 2**64 - 1),
    st.none() | st.floats(),
    st.none() | st.text(max_size=40),
    st.booleans(),
)


def word_of(value: int | float | str | bool | None) -> int:
    """What the documentation says, spelled out."""
    if value is None:
        return NULL
    if isinstance(value, str):
        return fnv1a(value)
    if isinstance(value, float):
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])
    return int(value) & 0xFFFF_FFFF_FFFF_FFFF


def rolled(words: Any, every: int = 2**62) -> Rolling:
    rolling = Rolling(every)
    rows = np.arange(words.shape[1])
    lines = np.arange(len(words))
    rolling.take(words, rows, lines, rows.astype(np.uint64), rows)
    return rolling


@given(st.lists(VALUES | st.tuples(VALUES, VALUES), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_what_is_on_a_tape_is_read_as_its_words(values: list[Value | tuple[Value, Value]]) -> None:
    tape = new_tape()
    for value in values:
        tape.write(value, tape.buffer, -1)
    packed = Packed(cut(tape), 8)
    assert packed.height == len(values)
    for row, value in enumerate(values):
        parts = value if isinstance(value, tuple) else (value,)
        expected = [word_of(field) for p in parts for field in (p.number, p.real, p.text, p.flag)]
        assert packed.widths[row] == len(expected)
        assert packed.words[: len(expected), row].tolist() == expected
        assert packed.words[len(expected) :, row].tolist() == [NULL] * (8 - len(expected))
    assert not tape.buffer


def test_a_value_that_is_too_wide_or_not_a_struct_is_refused() -> None:
    tape = new_tape()
    tape.write(Value(1, 2.0, "x", True), tape.buffer, -1)
    buffer = cut(tape)
    with pytest.raises(ValueError, match="at most 3 fields"):
        Packed(buffer, 3)
    with pytest.raises(ValueError, match="cannot be read"):
        Packed(b"\x01", 3)


def test_the_digest_is_the_written_formula() -> None:
    mask = 0xFFFF_FFFF_FFFF_FFFF

    def by_hand(state: int, word: int) -> int:
        x = (state ^ word) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 29)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 32)

    words = np.array([[1, 2**64 - 1], [NULL, 0]], np.uint64)
    state = SEED
    for row in range(2):
        for line in range(2):
            state = by_hand(state, int(words[line, row]))
    assert rolled(words).digest == state
    with np.errstate(over="ignore"):
        assert int(mixed(np.uint64(SEED), np.uint64(7))) == by_hand(SEED, 7)


@given(st.lists(WORD, min_size=2, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_every_change_of_one_word_changes_the_digest(words: list[int], data: Any) -> None:
    table = np.array([words], np.uint64)
    at = data.draw(st.integers(0, len(words) - 1))
    table_changed = table.copy()
    table_changed[0, at] ^= np.uint64(data.draw(st.integers(1, 2**64 - 1)))
    assert rolled(table).digest != rolled(table_changed).digest


def test_the_digest_sees_the_order_and_not_the_batches() -> None:
    table = np.arange(1, 1_001, dtype=np.uint64).reshape(1, -1)
    whole = rolled(table, every=64)
    assert rolled(table[:, ::-1].copy()).digest != whole.digest
    parts = Rolling(64)
    for start, end in ((0, 1), (1, 63), (63, 64), (64, 700), (700, 1_000)):
        rows = np.arange(start, end)
        parts.take(table, rows, np.array([0]), table[0], np.arange(1_000))
    assert parts.digest == whole.digest
    n, seqs, _, digests = parts.checkpoints()
    assert n.tolist() == list(range(64, 1_000, 64))
    assert digests.tolist() == whole.checkpoints()[3].tolist()
    assert seqs[0] == 64
    assert [column[-1] for column in parts.checkpoints(end=True)] == [
        1_000,
        1_000,
        999,
        parts.digest,
    ]


def test_a_frame_has_the_words_of_its_values() -> None:
    frame = pl.DataFrame(
        {
            "i": pl.Series([1, None, -1], dtype=pl.Int64),
            "u": pl.Series([2**63, None, 0], dtype=pl.UInt64),
            "f": pl.Series([0.1, None, -0.0], dtype=pl.Float64),
            "s": pl.Series(["ack", None, ""], dtype=pl.String),
            "b": pl.Series([True, None, False], dtype=pl.Boolean),
            "n": pl.Series([128, None, 0], dtype=pl.UInt8),
        }
    )
    expected = [
        [word_of(value) for value in column] for column in frame.to_dict(as_series=False).values()
    ]
    assert words_of_frame(frame).tolist() == expected
