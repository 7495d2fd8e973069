"""Writing: from the loop's rows of output to the run folder that the Rx engine writes.

Rows are words (see ``layout``), so the digests of the trace are taken over them as they are, and
columns are views of them with what is absent marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marblemaker.compiled.layout import World
from marblemaker.compiled.texts import NULL_WORD, Texts, word
from marblemaker.trace import ORDER_UPDATES_SCHEMA, Trace
from sinks.journal import DECISIONS_SCHEMA, FILLS_SCHEMA, ORDERS_SCHEMA, Journal
from streams.events import SIDE_NAMES
from streams.recording import ACCOUNT_SCHEMA

__all__ = ["Output"]

_STATUS: Final = {
    word(state): status
    for state, status in {
        "pending_new": "OPEN", "open": "OPEN", "pending_cancel": "OPEN", "filled": "FILLED",
        "cancelled": "CANCELED", "rejected": "REJECTED", "expired": "EXPIRED",
    }.items()
}  # fmt: skip


class _Rows:
    """Rows of words, as the trace takes them."""

    def __init__(self, words: NDArray[Any], widths: NDArray[np.int64]) -> None:
        self.words: NDArray[np.uint64] = words.copy().view(np.uint64)
        self.widths = widths
        self.height = len(widths)

    def value(self, row: int) -> Any:
        raise LookupError(f"a text of row {row} is not known by its word")


def _rows_of(records: NDArray[Any]) -> _Rows:
    """Records as rows of words, a line a field."""
    width, height = len(records.dtype.names or ()), len(records)
    words = np.ascontiguousarray(records.view(np.int64).reshape(height, width).T)
    return _Rows(words, np.full(height, width, np.int64))


class Output:
    """Takes what the loop has put out, and writes it."""

    def __init__(self, journal: Journal, trace: Trace | None, texts: Texts) -> None:
        """Write by way of the journal and the trace of the run."""
        self._journal = journal
        self._trace = trace
        self._texts = dict(texts.by_word)
        self._ended = pl.DataFrame(schema=ORDERS_SCHEMA)
        self.fair_value: float | None = None
        """What the latest priced decision was centred on, quote currency."""
        if trace is not None:
            trace.learn({word % 2**64: text for word, text in self._texts.items()})

    def take(self, w: World) -> None:
        """Write all rows that the loop has put out, and make room for more.

        All are copied: a column may be the memory of its rows, and the loop writes over them.
        """
        s = w["state"][0]
        wanted = w["wanted_out"][: s["wanted_rows"]].copy()
        decisions = w["decision_out"][: s["decision_rows"]].copy()
        updates = w["update_out"][: s["update_rows"]].copy()
        decided = self._frame(decisions, DECISIONS_SCHEMA)
        anchors = decided["anchor"].drop_nulls()
        if anchors.len():
            self.fair_value = anchors[-1]
        if self._trace is not None:
            feeds = [
                _Rows(
                    w["signal_out"][:, : s["signal_rows"]],
                    w["signal_out_widths"][: s["signal_rows"]],
                ),
                _Rows(
                    w["target_out"][:, : s["target_rows"]],
                    w["target_out_widths"][: s["target_rows"]],
                ),
            ]
            states = _Rows(
                w["state_out"][:, : s["state_rows"]], w["state_out_widths"][: s["state_rows"]]
            )
            self._trace.take_rows(feeds, states, _rows_of(decisions))
            self._trace.take_frames(
                _rows_of(wanted),
                self._frame(wanted, DECISIONS_SCHEMA),
                _rows_of(updates),
                self._frame(updates, ORDER_UPDATES_SCHEMA),
            )
        self._journal.append(
            decisions=decided,
            orders=self._final_orders(w),
            fills=self._frame(
                w["fill_out"][: s["fill_rows"]].copy(), FILLS_SCHEMA, {"side": _SIDES}
            ),
            account=self._account(w["account_out"][: s["account_rows"]].copy()),
        )  # fmt: skip
        for name in ("signal", "target", "state", "wanted", "decision", "update", "account",
                     "fill", "order"):  # fmt: skip
            s[f"{name}_rows"] = 0
        s["full"] = 0

    def _final_orders(self, w: World) -> pl.DataFrame:
        """Orders that have ended, in order of number, without a gap."""
        s = w["state"][0]
        rows = w["order_out"][: s["order_rows"]].copy()
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
        every = pl.concat([self._ended, ended]).sort("n")
        oldest = int(w["orders"][0]["n"]) if s["working"] else 2**62
        final = int(every["n"].search_sorted(oldest, side="left"))
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


_SIDES: Final = dict(SIDE_NAMES)
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
