"""Writing: from the loop's rows of output to the run folder that the Rx engine writes.

Rows are words (see ``layout``), so the digests of the trace are taken over them as they are, and
columns are views of them with what is absent marked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marblemaker.compiled.layout import FEW, World
from marblemaker.compiled.texts import NULL_WORD, Texts, word
from marblemaker.compiled.told import FILL_MODELS
from marblemaker.trace import ORDER_UPDATES_SCHEMA, Trace
from sinks.fills import FillModel
from sinks.journal import DECISIONS_SCHEMA, FILLS_SCHEMA, ORDERS_SCHEMA, Journal, Ledger
from sinks.orders import REMEMBERED
from streams.events import SIDE_NAMES, OrderUpdate
from streams.pump import MAX_SIGNALS
from streams.recording import (
    ACCOUNT_SCHEMA,
)

__all__ = ["Output"]

_STATUS: Final = {
    word(state): status
    for state, status in {
        "pending_new": "OPEN", "open": "OPEN", "pending_cancel": "OPEN", "pending_modify": "OPEN",
        "filled": "FILLED",
        "cancelled": "CANCELED", "rejected": "REJECTED", "expired": "EXPIRED",
    }.items()
}  # fmt: skip


class _Rows:
    """Rows of words, as the trace takes them."""

    def __init__(self, words: NDArray[Any], widths: NDArray[np.int64]) -> None:
        self.words: NDArray[np.uint64] = words.view(np.uint64)
        self.widths = widths
        self.height = len(widths)

    def value(self, row: int) -> Any:
        raise LookupError(f"a text of row {row} is not known by its word")


def _rows_of(records: NDArray[Any]) -> _Rows:
    """Records as rows of words, a line a field."""
    width, height = len(records.dtype.names or ()), len(records)
    words = np.ascontiguousarray(records.view(np.int64).reshape(height, width).T)
    return _Rows(words, np.full(height, width, np.int64))


_RARE: Final = (
    "state", "wanted", "decision", "update", "account", "fill", "order", "bound",
)  # fmt: skip
"""Tables of output that few inputs lead to a row of."""


class Output:
    """Takes what the loop has put out, and writes it."""

    def __init__(
        self, journal: Journal, trace: Trace | None, texts: Texts, signals: int = 1
    ) -> None:
        """Write by way of the journal and the trace of the run."""
        self._journal = journal
        # Tables of the further signals, and last of what all of them make together.
        self._others = [*range(signals - 1), MAX_SIGNALS - 1] if signals > 1 else []
        self._trace = trace
        self._texts: dict[int, str] = {}
        self._ended = pl.DataFrame(schema=ORDERS_SCHEMA)
        self.fair_value: float | None = None
        """What the latest priced decision was centred on, quote currency."""
        self.ledgers: dict[FillModel, Ledger] = {model: Ledger() for model in _MODELS.values()}
        """Of the fill models that are evaluated beside the one that was asked for."""
        self.learn(texts.by_word)

    def learn(self, texts: Mapping[int, str]) -> None:
        """Know the texts of words, before any of them is put out."""
        self._texts.update(texts)
        if self._trace is not None:
            self._trace.learn({word % 2**64: text for word, text in texts.items()})

    def answers(self, rows: pl.DataFrame) -> None:
        """Write the venue's answers that were inputs."""
        self._append(account=rows)

    def _append(self, **tables: pl.DataFrame) -> None:
        self._journal.append(**{**_NOTHING, **tables})

    def take(self, w: World, *, last: bool) -> Callable[[], None]:
        """Take the rows that the loop has put out, and make room for more.

        The function that is returned writes them, on whatever thread, in the order of the calls.
        ``last``: orders that still work are written as they are.
        """
        s = w["state"][0]
        s["full"] = 0
        others = [self._lines_of_other(w, k) for k in self._others]
        feeds = [self._lines(w, "signal"), *others, self._lines(w, "target")]
        most = max(int(s[f"{name}_rows"]) for name in _RARE)
        # What comes rarely waits for more of it: a table costs the same however few rows it has.
        if not last and 2 * most < min(int(w["parameters"][0]["most_rows"]), FEW):
            return lambda: self._write_feeds(feeds)
        rare = self._take_rare(w, last=last)

        def write() -> None:
            self._write_feeds(feeds)
            rare()

        return write

    def _write_feeds(self, feeds: Sequence[_Rows]) -> None:
        if self._trace is not None:
            self._trace.take_feeds(feeds)

    @staticmethod
    def _lines(w: World, name: str) -> _Rows:
        height = w["state"][0][f"{name}_rows"]
        w["state"][0][f"{name}_rows"] = 0
        # Copied, as in `_cut`.
        widths = w[f"{name}_out_widths"][:height].copy()
        widest = int(widths.max()) if height else 0
        return _Rows(w[f"{name}_out"][:widest, :height].copy(), widths)

    @staticmethod
    def _lines_of_other(w: World, k: int) -> _Rows:
        height = int(w["other_rows"][k])
        w["other_rows"][k] = 0
        widths = w["others_out_widths"][k, :height].copy()
        widest = int(widths.max()) if height else 0
        return _Rows(w["others_out"][k, :widest, :height].copy(), widths)

    @staticmethod
    def _cut(w: World, name: str) -> NDArray[Any]:
        height = w["state"][0][f"{name}_rows"]
        w["state"][0][f"{name}_rows"] = 0
        # A column may be the memory of its rows, and the loop writes over them.
        return cast(NDArray[Any], w[f"{name}_out"][:height].copy())

    def _take_rare(self, w: World, *, last: bool) -> Callable[[], None]:
        """The same of all but what the feeds hand on."""
        states = self._lines(w, "state")
        wanted, decisions, updates = (
            self._cut(w, name) for name in ("wanted", "decision", "update")
        )
        fills, account, ended = (self._cut(w, name) for name in ("fill", "account", "order"))
        bounds = self._cut(w, "bound")
        working = w["orders"][: w["state"][0]["working"]].copy()
        # Orders from this number on may still change: they work, or a late fill may come.
        created = int(w["state"][0]["created"])
        changing = int(working[0]["n"]) if len(working) else created + 1
        if w["parameters"][0]["recorded"]:
            changing = min(changing, created - REMEMBERED + 1)
        if last:
            changing = created + 1
            ended = np.concatenate([ended, working[list(ended.dtype.names or ())]])

        def write() -> None:
            if self._trace is not None:
                self._trace.take_rare(
                    states,
                    _rows_of(decisions),
                    _rows_of(wanted),
                    self._frame(wanted, DECISIONS_SCHEMA),
                    _rows_of(updates),
                    self._frame(updates, ORDER_UPDATES_SCHEMA),
                )
            decided = self._frame(decisions, DECISIONS_SCHEMA)
            anchors = decided["anchor"].drop_nulls()
            if anchors.len():
                self.fair_value = anchors[-1]
            for model, side, px, qty, fee, liquidity in bounds.tolist():
                self.ledgers[_MODELS[model]].take(side, px, qty, fee, self._texts[liquidity])
            self._append(
                decisions=decided,
                orders=self._final_orders(ended, changing),
                fills=self._fills(fills),
                account=self._account(account),
            )

        return write

    def _fills(self, rows: NDArray[Any]) -> pl.DataFrame:
        """Fills as columns; what comes before a position that was taken over is booked first."""
        start = 0
        for at in np.flatnonzero(rows["n"] == 0).tolist():
            self._append(fills=self._fills(rows[start:at]))
            _, ts, side, px, qty, _, _ = rows[at].item()
            self._journal.ledger.adopt(
                OrderUpdate(ts=ts, n=0, side=side, state="filled", leaves=0, filled=qty, fill_px=px)
            )
            start = at + 1
        return self._frame(rows[start:], FILLS_SCHEMA, {"side": _SIDES})

    def _final_orders(self, rows: NDArray[Any], changing: int) -> pl.DataFrame:
        """Orders that have ended, by number, before the first that is still ``changing``."""
        ended = pl.DataFrame(
            {
                "n": rows["n"],
                "ts": rows["ts"],
                "side": _texts(rows["side"], _SIDES),
                "type": _texts((rows["px"] == NULL_WORD).astype(np.int64), _TYPES),
                "px": _with_nulls(rows["px"]),
                "qty": rows["qty"],
                "status": _texts(rows["state"], _STATUS),
                "filled": rows["filled"],
                "ts_last": rows["ts_last"],
            },
            ORDERS_SCHEMA,
        )
        every = pl.concat([self._ended, ended]).sort("n", maintain_order=True)
        # One that got a late fill is there again, as it is now.
        every = every.filter(every["n"] != every["n"].shift(-1, fill_value=0))
        final = int(every["n"].search_sorted(changing, side="left"))
        self._ended = every.slice(final)
        return every.slice(0, final)

    def _account(self, rows: NDArray[Any]) -> pl.DataFrame:
        frame = self._frame(rows, ACCOUNT_SCHEMA, {"venue_id": None})
        trades = pl.Series("venue_id", _with_nulls(rows["venue_id"]).cast(pl.String))
        return frame.with_columns(trades).select(list(ACCOUNT_SCHEMA))

    def _frame(
        self,
        rows: NDArray[Any],
        schema: pl.Schema,
        spelled: Mapping[str, Mapping[int, str] | None] | None = None,
    ) -> pl.DataFrame:
        """Records as columns; ``spelled`` has texts of columns that are no words, or leaves out."""
        columns: dict[str, pl.Series] = {}
        spelled = spelled or {}
        for name, dtype in schema.items():
            texts = spelled.get(name, self._texts)
            if texts is None:
                continue
            if dtype == pl.String:
                columns[name] = _texts(rows[name], texts)
            elif dtype == pl.Boolean:
                columns[name] = pl.Series(rows[name] != 0)
            else:
                columns[name] = _with_nulls(rows[name]).cast(dtype)
        return pl.DataFrame(columns)


_NOTHING: Final = {
    "decisions": pl.DataFrame(schema=DECISIONS_SCHEMA),
    "orders": pl.DataFrame(schema=ORDERS_SCHEMA),
    "fills": pl.DataFrame(schema=FILLS_SCHEMA),
    "account": pl.DataFrame(schema=ACCOUNT_SCHEMA),
}
_SIDES: Final = dict(SIDE_NAMES)
_MODELS: Final = {number: model for model, number in FILL_MODELS.items()}
_TYPES: Final = {0: "LIMIT", 1: "MARKET"}


def _texts(words: NDArray[np.int64], texts: Mapping[int, str]) -> pl.Series:
    """Words as texts; ``NULL_WORD`` is an absent one."""
    distinct, place = np.unique(words, return_inverse=True)
    spelled = [None if w == NULL_WORD else texts[w] for w in distinct.tolist()]
    return pl.Series(spelled, dtype=pl.String).gather(place)


def _with_nulls(values: NDArray[Any]) -> pl.Series:
    """A column of which the words that say so are absent."""
    values = np.ascontiguousarray(values)
    absent = values.view(np.int64) == NULL_WORD
    series = pl.Series(values)
    if absent.any():
        series = pl.select(pl.when(pl.Series(~absent)).then(series)).to_series()
    return series
