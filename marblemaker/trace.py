"""Trace: what every operator of a run put out, and a digest of each.

The graph is looked into where its stages meet (``operators.tap``). What flows there holds the
outputs of all operators of the stage: a Residual has its mid, baseline and residual, a Refusal the
reason by which its guard is known. So a digest an operator costs no hook an operator.

``trace/`` in a run folder:

- ``signal``, ``signal_2`` …, ``weighted``, ``target``, ``wanted``, ``orders`` (.parquet): values.
- ``state.parquet``: what reached requote refused or altered; otherwise it is the latest of the two.
- ``digests.parquet``: a row for every ``EVERY`` outputs of an operator, or ``EVERY_INPUT`` inputs,
  and one at its end.
- ``proof.json``: the digests at the end, those of the inputs and the settings, and the versions.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct
from msgspec.structs import astuple
from numpy.typing import NDArray

from marblemaker.digest import NULL, Packed, Rolling, cut, new_tape, warm_up, words_of_frame
from marblemaker.versions import versions
from operators.tap import Taps
from sinks.journal import DECISIONS_SCHEMA
from streams.events import Decision, OrderUpdate
from streams.recording import FrameWriter, Manifest, NewWriter, RecordingError

__all__ = [
    "DIGESTS",
    "EVERY",
    "FOLDER",
    "FORMAT",
    "ORDER_UPDATES_SCHEMA",
    "PROOF",
    "STATE_SCHEMA",
    "Proof",
    "Trace",
    "operators_in_order",
    "operators_of_refusals",
    "read_proof",
    "schema_of_stage",
    "settings_digest",
]  # fmt: skip

FORMAT: Final = 1
FOLDER: Final = "trace"
DIGESTS: Final = "digests"
PROOF: Final = "proof.json"
EVERY: Final = 4_096
"""Outputs of an operator from one checkpoint of its digest to the next."""
EVERY_INPUT: Final = 128
"""The same of an input: what was delivered is known from the files alone, should they change."""

_REFUSED: Final = {
    "by": pl.String(), "reason": pl.String(), "value": pl.Float64(), "limit": pl.Float64(),
}  # fmt: skip

SIGNAL_SCHEMA: Final = pl.Schema(
    {
        "seq": pl.UInt64(), "ts": pl.Int64(),
        "mid": pl.Float64(), "baseline": pl.Float64(), "residual": pl.Float64(), **_REFUSED,
    }
)  # fmt: skip

TARGET_SCHEMA: Final = pl.Schema(
    {
        "seq": pl.UInt64(), "ts": pl.Int64(), "mid": pl.Float64(), "anchor": pl.Float64(),
        "bid_px": pl.Int64(), "ask_px": pl.Int64(), **_REFUSED,
    }
)  # fmt: skip

STATE_SCHEMA: Final = pl.Schema(
    {
        "signal_seq": pl.UInt64(), "target_seq": pl.UInt64(), "seq": pl.UInt64(), "ts": pl.Int64(),
        "anchor": pl.Float64(), "widening": pl.Float64(), **_REFUSED,
    }
)  # fmt: skip

_ORDER_TYPES: Final[dict[str, pl.DataType]] = {
    "state": pl.String(), "requested": pl.Boolean(),
}  # fmt: skip

ORDER_UPDATES_SCHEMA: Final = pl.Schema(
    {name: _ORDER_TYPES.get(name, pl.Int64()) for name in OrderUpdate.__struct_fields__}
)

DIGESTS_SCHEMA: Final = pl.Schema(
    {
        "operator": pl.String(), "n": pl.UInt64(), "seq": pl.UInt64(), "ts": pl.Int64(),
        "digest": pl.UInt64(),
    }
)  # fmt: skip

# Which guard or book check a feed's refusal comes from, by its reason (docs/guards.md).
_REFUSES: Final = {
    "event time in the future": "event_time",
    "event time far behind": "event_time",
    "frozen": "frozen",
    "jump not confirmed": "collar",
    "looks like a split": "split",
    "quiet": "age",
    "dead": "age",
    "disconnected": "age",
}
BOOKS: Final = "books"
"""What ``operators.mid`` refuses has a digest of its own."""
_CHAIN: Final = (
    "event_time",
    "frozen",
    BOOKS,
    "mid",
    "collar",
    "split",
    "residual",
    "anchor",
    "age",
)
_TOGETHER: Final = (
    "combine_latest", "weighted", "session", "basis", "fair_value", "risk", "kill_switch",
    "requote", "skew", "ladder", "throttle", "order_sink",
)  # fmt: skip

# Fields of the structs, where they stand in a row of words.
_RESIDUAL, _ANCHOR, _REFUSAL = 5, 7, 10
_BY, _REASON = 2, 3
_D: Final = {name: k for k, name in enumerate(Decision.__struct_fields__)}


def operators_in_order(names: Sequence[str]) -> list[str]:
    """Names of inputs and operators in the order in which values flow."""

    def place(name: str) -> tuple[int, int, str]:
        head, _, tail = name.partition(" ")
        if head == "input":
            return 0, 0, tail
        feed, _, operator = name.partition(".")
        if operator:
            return 1, _CHAIN.index(operator), feed
        return 2, _TOGETHER.index(name), ""

    return sorted(names, key=place)


def operators_of_refusals(operator: str) -> list[str]:
    """Reasons by which an operator of a feed's chain refuses."""
    return [reason for reason, by in _REFUSES.items() if by == operator]


def schema_of_stage(name: str) -> pl.Schema:
    """Columns of one file of a trace, by its name without ``.parquet``."""
    if name in ("state", "target", "wanted", "orders", DIGESTS):
        return {
            "state": STATE_SCHEMA, "target": TARGET_SCHEMA, "wanted": DECISIONS_SCHEMA,
            "orders": ORDER_UPDATES_SCHEMA, DIGESTS: DIGESTS_SCHEMA,
        }[name]  # fmt: skip
    return SIGNAL_SCHEMA


def settings_digest(manifest: Manifest) -> str:
    """The sha256 of the settings and instruments that a manifest names."""
    document = {
        "settings": manifest.settings,
        "instruments": msgspec.to_builtins(manifest.instruments),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Proof(Struct, kw_only=True, omit_defaults=True):
    """What a run says of itself at its end."""

    format: int
    every: int
    settings: str
    """sha256, see ``settings_digest``."""
    operators: dict[str, tuple[int, str]]
    """Of each operator and input the number of its outputs, and their digest (16 hex digits)."""
    decisions: str = ""
    """The sha256 over decisions and orders, as in ``summary.json``."""
    outside: list[str] = []
    """What the run was told past its log; with anything here it cannot be proven."""
    versions: dict[str, str] = {}
    platform: str = ""


def read_proof(run: Path) -> Proof | None:
    """The proof of a run; ``None`` if it has none (it was made without a trace).

    Errors: RecordingError if there is one that cannot be read.
    """
    path = run / FOLDER / PROOF
    if not path.is_file():
        return None
    try:
        proof = msgspec.json.decode(path.read_bytes(), type=Proof)
    except (OSError, msgspec.DecodeError) as error:
        raise RecordingError(f"{path} is not a proof: {error}; restore it from a copy") from error
    if proof.format > FORMAT:
        raise RecordingError(
            f"{path} is of format {proof.format}, this version reads up to {FORMAT}; use the "
            f"version that wrote it ({proof.versions.get('marblemaker', 'unknown')})"
        )
    return proof


def finish_trace(
    trace: Trace,
    run: Path,
    manifest: Manifest,
    decisions: str,
    *,
    names: Sequence[str] = ("account",),
    outside: Sequence[str] = (),
) -> Proof:
    """Close a trace; the inputs called ``names`` are digested from the run's files."""
    for name in names:
        if name in manifest.files:
            for batch in pl.scan_parquet(run / f"{name}.parquet").collect_batches(
                chunk_size=_SEGMENT_ROWS, maintain_order=True
            ):
                trace.inputs(name, batch)
    return trace.close(manifest, decisions, outside)


class _Stage:
    """One tape, and the file that its values go to."""

    def __init__(self, folder: Path, name: str, width: int, writer: NewWriter) -> None:
        self.name = name
        self.tape = new_tape()
        self.width = width
        self.schema = schema_of_stage(name)
        self._writer = writer(folder, name, self.schema)
        self._frames: list[pl.DataFrame] = []
        self._height = 0

    def write(self, columns: Mapping[str, Any]) -> None:
        """Add rows; small batches are put together first."""
        frame = pl.DataFrame(columns)
        absent = [
            pl.lit(None, dtype).alias(name)
            for name, dtype in self.schema.items()
            if name not in columns
        ]
        self._frames.append(frame.with_columns(absent).select(list(self.schema)).cast(self.schema))
        self._height += self._frames[-1].height
        if self._height >= _SEGMENT_ROWS:
            self._spill()

    def _spill(self) -> None:
        if self._frames:
            self._writer.append(pl.concat(self._frames))
        self._frames, self._height = [], 0

    def close(self) -> None:
        self._spill()
        self._writer.finish()


_SEGMENT_ROWS: Final = 65_536


class Rows(Protocol):
    """A table of words: a line a field, a column a value; see ``marblemaker.digest.Packed``."""

    words: NDArray[np.uint64]
    widths: NDArray[np.int64]
    height: int

    def value(self, row: int) -> Any:
        """A value in plain dictionaries and lists: for its texts."""


_Told = TypeVar("_Told", Decision, OrderUpdate)


class Trace:
    """Takes what the taps tell, and writes it with its digests.

    ``take`` is called on the graph's thread and costs little; what it returns does the rest, on
    whatever thread, in the order of the calls.
    """

    def __init__(
        self,
        folder: Path,
        *,
        signals: int = 1,
        fair_value: bool = False,
        writer: NewWriter = FrameWriter,
    ) -> None:
        """Write into ``folder/trace``; ``signals`` is how many there are."""
        warm_up()
        self.folder = folder / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ["signal", *(f"signal_{k}" for k in range(2, signals + 1))]
        if signals > 1:
            names.append("weighted")
        self._feeds = [_Stage(self.folder, name, _REFUSAL, writer) for name in (*names, "target")]
        self._state = _Stage(self.folder, "state", 2 * _REFUSAL, writer)
        self._wanted = _Stage(self.folder, "wanted", len(_D), writer)
        self._orders = _Stage(self.folder, "orders", len(OrderUpdate.__struct_fields__), writer)
        self._open = [*self._feeds, self._state, self._wanted, self._orders]
        self._decisions = new_tape()
        self._fair_value = fair_value
        self._rolling: dict[str, Rolling] = {}
        self._texts: dict[int, str] = {}
        tapes = {stage.name: stage.tape for stage in self._feeds}
        self.taps = Taps(
            signals=tuple(tapes[name] for name in names if name != "weighted"),
            weighted=tapes.get("weighted"),
            target=tapes["target"],
            states=self._state.tape,
            wanted=self._wanted.tape,
        )

    def decision(self, decision: Decision) -> None:
        """Take a decision, as the throttle put it out."""
        self._decisions.write(decision, self._decisions.buffer, -1)

    def order(self, update: OrderUpdate) -> None:
        """Take a change of one of our orders."""
        tape = self._orders.tape
        tape.write(update, tape.buffer, -1)

    def take(self) -> Callable[[], None]:
        """Let go of what has been told; the function that is returned digests and writes it."""
        feeds = [(stage, cut(stage.tape)) for stage in self._feeds]
        states, wanted, orders = (
            cut(stage.tape) for stage in (self._state, self._wanted, self._orders)
        )
        decisions = cut(self._decisions)

        def write() -> None:
            for stage, buffer in feeds:
                if buffer:
                    self._take_feed(stage, Packed(buffer, stage.width))
            if states:
                self._take_states(Packed(states, self._state.width))
            if wanted:
                self._take_wanted(Packed(wanted, self._wanted.width))
            if decisions:
                self._take_decisions(Packed(decisions, self._wanted.width))
            if orders:
                self._take_orders(Packed(orders, self._orders.width))

        return write

    # ------------------------------------------------------------ engines that put out words

    def learn(self, texts: Mapping[int, str]) -> None:
        """Know texts by their words (``marblemaker.digest.fnv1a``)."""
        self._texts.update(texts)

    def take_feeds(self, feeds: Sequence[Rows]) -> None:
        """Take the outputs of the signals and the target; the same as what the taps are told.

        The texts of their words must be known.
        """
        for stage, rows in zip(self._feeds, feeds, strict=True):
            if rows.height:
                self._take_feed(stage, rows)

    def take_rare(
        self, states: Rows, decisions: Rows, wanted: Rows, wanted_frame: pl.DataFrame,
        orders: Rows, orders_frame: pl.DataFrame,
    ) -> None:  # fmt: skip
        """The same of what reached requote, decisions, and, as words and as columns, of what
        requote let through and the changes of our orders.
        """
        if states.height:
            self._take_states(states)
        if decisions.height:
            self._take_decisions(decisions)
        if wanted.height:
            self._digest_wanted(wanted)
            self._wanted.write(wanted_frame.to_dict())
        if orders.height:
            self._digest_orders(orders)
            self._orders.write(orders_frame.to_dict())

    # ------------------------------------------------------------ inputs

    def inputs(self, name: str, rows: pl.DataFrame) -> None:
        """Digest rows of an input as they were delivered; ``name`` is that of their file."""
        if rows.height:
            words = words_of_frame(rows)
            seqs = rows["seq"].cast(pl.UInt64).to_numpy()
            self._digest(f"input {name}", words, range(len(words)), seqs, rows["ts"].to_numpy())

    def quotes(self, name: str, columns: Sequence[NDArray[Any]]) -> None:
        """The same of quotes in columns of numbers; see ``Rolling.take_quotes``."""
        if len(columns[0]):
            self._rolling_of(f"input {name}").take_quotes(columns)

    # ------------------------------------------------------------ stages

    def _take_feed(self, stage: _Stage, packed: Rows) -> None:
        """A signal's or the target's chain: values, and refusals by who refused."""
        words, widths, name = packed.words, packed.widths, stage.name
        first = 0
        if words[0, 0] == 0 and words[1, 0] == 0:
            # What stands for a feed that has not spoken yet is no output.
            first = 1
        words, widths = words[:, first:], widths[first:]
        height = len(widths)
        if not height:
            return
        seqs, times = words[0], words[1].view(np.int64)
        refused = widths == _REFUSAL
        refusals = np.flatnonzero(refused)
        values = np.flatnonzero(~refused) if len(refusals) else np.arange(height)
        columns: dict[str, Any] = {"seq": seqs, "ts": times}
        if name == "target":
            self._digest("target.mid", words, (0, 1, 2, 4, 5), seqs, times, values)
            self._digest("target.anchor", words, (0, 1, 3), seqs, times, values)
            layout = {"mid": 2, "anchor": 3, "bid_px": 4, "ask_px": 5}
        else:
            if name == "weighted":
                # Values and refusals in one digest, so as they came: not by kind, batch by batch.
                seen = np.full((_REFUSAL, height), np.uint64(NULL), np.uint64)
                seen[:_RESIDUAL] = words[:_RESIDUAL]
                seen[_RESIDUAL : len(words), refusals] = words[_RESIDUAL:, refusals]
                self._digest(name, seen, range(_REFUSAL), seqs, times)
            else:
                self._digest(f"{name}.mid", words, (0, 1, 2), seqs, times, values)
                self._digest(f"{name}.residual", words, (0, 1, 3, 4), seqs, times, values)
            layout = {"mid": 2, "baseline": 3, "residual": 4}
        for column, k in layout.items():
            dtype = np.int64 if column in ("bid_px", "ask_px") else np.float64
            columns[column] = _with_nulls(words[k].view(dtype), refused if len(refusals) else None)
        if len(refusals):
            at = first + refusals
            by = self._texts_at(packed, at, _BY, 0, 0)
            reason = self._texts_at(packed, at, _REASON, 0, 0)
            if name != "weighted":
                refusing = [f"{name}.{_REFUSES.get(text, BOOKS)}" for text in reason.texts]
                for operator, rows in _by_name(refusing, reason.places, refusals):
                    self._digest(operator, words, range(_REFUSAL), seqs, times, rows)
            judged = words[_REFUSAL - 2 : _REFUSAL, refusals]
            columns |= _refused_columns(height, refusals, by, reason, judged)
        stage.write(columns)

    def _take_states(self, packed: Rows) -> None:
        """What reaches requote altered or refused: pairs, and refusals by who refused."""
        words, widths, height = packed.words, packed.widths, packed.height
        second = np.where(widths >= _REFUSAL + _ANCHOR, _REFUSAL, _RESIDUAL)
        every = np.arange(height)
        signal_seqs, target_seqs = words[0], words[second, every]
        times = np.maximum(words[1].view(np.int64), words[second + 1, every].view(np.int64))
        seqs = np.maximum(signal_seqs, target_seqs)
        pairs = widths == _RESIDUAL + _ANCHOR
        values, refusals = np.flatnonzero(pairs), np.flatnonzero(~pairs)
        # A line for each of: both sides' seq and ts, anchor, widening, and the refusal's fields.
        seen = np.full((6 + _REFUSAL, height), np.uint64(NULL), np.uint64)
        seen[0], seen[1] = words[0], words[1]
        seen[2], seen[3] = target_seqs, words[second + 1, every]
        seen[4, values], seen[5, values] = words[8, values], words[11, values]
        told = {"combine_latest": values, "session": np.flatnonzero(pairs & (words[11] != _ONE))}
        refused: dict[str, pl.Series] = {}
        if len(refusals):
            # As requote has it: the target's refusal stands for both.
            of_target = np.isin(widths[refusals], (_RESIDUAL + _REFUSAL, 2 * _REFUSAL))
            starts = np.where(of_target, second[refusals], 0)
            by = self._texts_at(packed, refusals, _BY, starts, of_target)
            reason = self._texts_at(packed, refusals, _REASON, starts, of_target)
            lines = starts + np.arange(_REFUSAL)[:, None]
            seen[6:, refusals] = words[lines, refusals]
            guards = [source.replace(" ", "_") for source in by.texts]
            refusing = [guard if guard in _TOGETHER else "combine_latest" for guard in guards]
            for operator, rows in _by_name(refusing, by.places, refusals):
                told[operator] = np.sort(np.concatenate([told.get(operator, rows[:0]), rows]))
            refused = _refused_columns(height, refusals, by, reason, seen[14:16, refusals])
        for operator, rows in told.items():
            self._digest(operator, seen, (0, 1, 2, 3, *range(5, 16)), seqs, times, rows)
        if self._fair_value:
            self._digest("fair_value", seen, (0, 2, 4), seqs, times, values)
        absent = ~pairs if len(refusals) else None
        self._state.write(
            {
                "signal_seq": signal_seqs,
                "target_seq": target_seqs,
                "seq": seqs,
                "ts": times,
                "anchor": _with_nulls(words[8].view(np.float64), absent),
                "widening": _with_nulls(words[11].view(np.float64), absent),
                **refused,
            }
        )

    def _take_wanted(self, packed: Packed) -> None:
        self._digest_wanted(packed)
        self._write_rows(self._wanted, packed, Decision)

    def _digest_wanted(self, packed: Rows) -> None:
        words = packed.words
        seqs, times = words[_D["seq"]], words[_D["ts"]].view(np.int64)
        for operator, columns in _WANTED.items():
            self._digest(operator, words, columns, seqs, times)

    def _take_decisions(self, packed: Rows) -> None:
        words = packed.words
        seqs, times = words[_D["seq"]], words[_D["ts"]].view(np.int64)
        self._digest("throttle", words, range(len(_D)), seqs, times)

    def _take_orders(self, packed: Packed) -> None:
        self._digest_orders(packed)
        self._write_rows(self._orders, packed, OrderUpdate)

    def _digest_orders(self, packed: Rows) -> None:
        words = packed.words
        # They are no inputs and have no sequence number; n stands for it.
        self._digest("order_sink", words, range(len(words)), words[1], words[0].view(np.int64))

    @staticmethod
    def _write_rows(stage: _Stage, packed: Packed, kind: type[_Told]) -> None:
        decode = msgspec.msgpack.Decoder(kind).decode
        rows = [astuple(decode(packed.bytes_of(row))) for row in range(packed.height)]
        stage.write(dict(zip(stage.schema, zip(*rows, strict=True), strict=True)))

    def _digest(
        self, operator: str, words: Any, lines: Iterable[int], seqs: Any, times: Any,
        rows: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        if rows is None:
            rows = np.arange(words.shape[1])
        if len(rows):
            lines = np.array(list(lines), np.int64)
            self._rolling_of(operator).take(words, rows, lines, seqs, times)

    def _rolling_of(self, operator: str) -> Rolling:
        rolling = self._rolling.get(operator)
        if rolling is None:
            every = EVERY_INPUT if operator.startswith("input ") else EVERY
            rolling = self._rolling[operator] = Rolling(every)
        return rolling

    def _texts_at(
        self, packed: Rows, rows: NDArray[np.int64], field: int, starts: Any, parts: Any
    ) -> _Texts:
        """A field of refusals that begin at the lines ``starts``; see ``_text`` of ``parts``."""
        starts, parts = np.broadcast_to(starts, rows.shape), np.broadcast_to(parts, rows.shape)
        lines = starts + field
        _, firsts, places = np.unique(
            packed.words[lines, rows], return_index=True, return_inverse=True
        )
        texts = [
            self._text(packed, int(rows[i]), int(lines[i]), field, int(parts[i])) for i in firsts
        ]
        return _Texts(texts, places)

    def _text(self, packed: Rows, row: int, line: int, field: int, part: int = 0) -> str:
        """The text of a refusal behind a word; each is read once."""
        word = int(packed.words[line, row])
        text = self._texts.get(word)
        if text is None:
            value = packed.value(row)
            text = (value[part] if isinstance(value[0], list) else value)[field]
            self._texts[word] = text
        return text

    # ------------------------------------------------------------ the end

    def finish_tables(self) -> None:
        """Write all that is left but the digests; there is nothing more to take."""
        self.take()()
        for stage in self._open:
            stage.close()
        self._open = []

    def close(self, manifest: Manifest, decisions: str, outside: Sequence[str] = ()) -> Proof:
        """Write all that is left, the digests and the proof; return the proof."""
        self.finish_tables()
        names = operators_in_order(list(self._rolling))
        frames = [pl.DataFrame(schema=DIGESTS_SCHEMA)]
        for name in names:
            rows = self._rolling[name].checkpoints(end=True)
            frames.append(
                pl.DataFrame(dict(zip(("n", "seq", "ts", "digest"), rows, strict=True)))
                .with_columns(operator=pl.lit(name))
                .select(list(DIGESTS_SCHEMA))
                .cast(DIGESTS_SCHEMA)
            )
        pl.concat(frames).write_parquet(self.folder / f"{DIGESTS}.parquet")
        proof = Proof(
            format=FORMAT,
            every=EVERY,
            settings=settings_digest(manifest),
            operators={
                name: (self._rolling[name].n, f"{self._rolling[name].digest:016x}")
                for name in names
            },
            decisions=decisions,
            outside=list(outside),
            versions=versions("numba"),
            platform=f"{platform.system()} {platform.machine()}",
        )
        text = json.dumps(msgspec.to_builtins(proof), indent=2)
        (self.folder / PROOF).write_text(text + "\n")
        return proof


_ONE: Final = np.float64(1.0).view(np.uint64)

_WANTED: Final[Mapping[str, tuple[int, ...]]] = {
    operator: tuple(_D[name] for name in ("seq", "ts", *names))
    for operator, names in {
        "requote": (
            "action", "reason", "signal_seq", "target_seq", "position", "refused_bid_px",
            "refused_ask_px", "refused_bid_sz", "refused_ask_sz", "refused_value", "refused_limit",
            "threshold_bps", "unmoved",
        ),
        "skew": ("signal_shift", "inventory_shift", "shift"),
        "ladder": (
            "half_spread", "bid", "ask", "bid_px", "ask_px", "bid_levels", "ask_levels",
            "level_step", "qty", "bid_note", "ask_note",
        ),
    }.items()
}  # fmt: skip


def _with_nulls(values: Any, absent: Any) -> pl.Series:
    series = pl.Series(np.ascontiguousarray(values))
    if absent is not None and absent.any():
        series = pl.select(pl.when(pl.Series(~absent)).then(series)).to_series()
    return series


class _Texts(NamedTuple):
    """Texts of some rows: the distinct ones, and which of them each row has."""

    texts: list[str]
    places: NDArray[np.int64]

    def series(self) -> pl.Series:
        return pl.Series(self.texts, dtype=pl.String).gather(self.places)


def _by_name(
    names: Sequence[str], places: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Rows by the names of what they have; ``places`` are those of each row among ``names``."""
    for name in dict.fromkeys(names):
        of = [i for i, other in enumerate(names) if other == name]
        yield name, rows[np.isin(places, of)]


def _refused_columns(
    height: int, rows: NDArray[np.int64], by: _Texts, reason: _Texts, judged: Any
) -> dict[str, pl.Series]:
    """Columns of refusals among ``height`` rows: who, why, and the two words of what was judged."""
    columns = {}
    for name, values in (
        ("by", by.series()),
        ("reason", reason.series()),
        ("value", _doubles(judged[0])),
        ("limit", _doubles(judged[1])),
    ):
        column = pl.repeat(None, height, dtype=values.dtype, eager=True)
        columns[name] = column.scatter(rows, values)
    return columns


def _doubles(words: Any) -> pl.Series:
    words = np.ascontiguousarray(words)
    return _with_nulls(words.view(np.float64), words == np.uint64(NULL))
