"""Page: a sweep's table as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any, Final

import polars as pl

from marblemaker.files import write_whole
from marblemaker.sweep.store import RESULTS, read_table
from streams.recording import RecordingError

__all__ = ["best_and_worst", "write_page"]

_HERE: Final = Path(__file__).parent
_SLOT: Final = re.compile(r"\{\{([A-Z]+)\}\}")
_MOST_ROWS: Final = 30_000
_SHOWN: Final = 10
_METRICS: Final = [
    name for name, dtype in RESULTS.items()
    if dtype.is_numeric() and not name.startswith("decisions_")
]  # fmt: skip
_TOLD: Final = (
    "pnl_pessimistic", "pnl_queue", "pnl_optimistic", "fills", "markout_5s_bps",
    "inventory_end",
)  # fmt: skip


def write_page(table: Path, out: Path) -> dict[str, Any]:
    """Show the table in the HTML file ``out``; what was there is replaced.

    Two settings make a heat map, more of them also parallel coordinates, one a line.

    Shape: ``page``, ``bytes``, and how many ``rows`` are shown ``of`` how many.
    Errors: RecordingError if ``table`` is no table of a sweep or ``out`` cannot be written.
    """
    frame, told = read_table(table)
    swept: list[str] = told["swept"]
    shown = frame
    if frame.height > _MOST_ROWS:
        shown = frame.gather_every(-(-frame.height // _MOST_ROWS))
    if out.resolve() == table.resolve() or out.is_dir():
        raise RecordingError(f"{out} is a folder or the table itself; name an HTML file for it")
    failed = frame.height - frame["error"].null_count()
    recordings = frame["recording"].unique(maintain_order=True).to_list()
    combinations = frame["combination"].n_unique()
    notes = [
        f"{_many(combinations, 'combination')} of {_many(len(swept), 'setting')} over "
        f"{_many(len(recordings), 'recording')}: {_many(frame.height, 'row')}, {failed:,} failed."
    ]
    if shown.height < frame.height:
        notes.append(f"The charts show every {-(-frame.height // _MOST_ROWS)}th row.")
    title = f"Sweep of {', '.join(name.split('.')[-1] for name in swept)}"
    filled = {
        "TITLE": escape(title),
        "CSS": (_HERE / "page.css").read_text(encoding="utf-8"),
        "HEADING": escape(title),
        "SPAN": escape(f"{', '.join(recordings[:6])}{' …' if len(recordings) > 6 else ''}"),
        "NOTE": escape(" ".join(notes)),
        "TABLES": _tables(frame, swept),
        "DATA": _json(_document(shown, swept, recordings)),
        "JS": (_HERE / "page.js").read_text(encoding="utf-8"),
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    text = _SLOT.sub(lambda slot: filled[slot[1]], template).encode()
    try:
        write_whole(out, text)
    except OSError as error:
        raise RecordingError(
            f"{out} cannot be written: {error.strerror or error}; choose another file with --page"
        ) from None
    return {"page": str(out), "bytes": len(text), "rows": shown.height, "of": frame.height}


def best_and_worst(frame: pl.DataFrame, most: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows with the highest and with the lowest P&L, at most half of all rows in each."""
    ran = frame.filter(pl.col("error").is_null())
    count = min(most, -(-ran.height // 2))
    best = ran.sort("pnl", "combination", descending=[True, False], maintain_order=True)
    return best.head(count), best.tail(min(count, ran.height - count)).reverse()


def _json(document: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever its texts hold."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _document(frame: pl.DataFrame, swept: list[str], recordings: list[str]) -> dict[str, Any]:
    ran = frame.filter(pl.col("error").is_null())
    finite = [
        pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name)
        for name, dtype in ran.schema.items()
        if dtype.is_float()
    ]
    ran = ran.with_columns(finite)
    at = {name: i for i, name in enumerate(recordings)}
    return {
        "recordings": recordings,
        "recording": [at[name] for name in ran["recording"]],
        "combination": ran["combination"].to_list(),
        "settings": [
            {
                "name": name,
                "numeric": ran.schema[name].is_numeric(),
                "values": ran[name].to_list(),
            }
            for name in swept
        ],
        "metrics": [
            {"name": name, "values": ran[name].to_list()}
            for name in _METRICS
            if ran[name].null_count() < ran.height
        ],
    }


def _tables(frame: pl.DataFrame, swept: list[str]) -> str:
    best, worst = best_and_worst(frame, _SHOWN)
    parts = [_table("Best by P&L", best, swept), _table("Worst by P&L", worst, swept)]
    errors = (
        frame.filter(pl.col("error").is_not_null())
        .group_by("error", maintain_order=True)
        .agg(pl.len().alias("rows"), first=pl.col("combination").first())
        .sort("rows", descending=True, maintain_order=True)
    )
    if errors.height:
        rows = "".join(
            f'<tr><td>{n:,}</td><td>{first}</td><td class="text">{escape(error)}</td></tr>'
            for error, n, first in errors.head(20).iter_rows()
        )
        parts.append(
            '<div class="table"><h2>Failed</h2><div class="scroll"><table><tr><th>rows</th>'
            f'<th>first</th><th class="text">error</th></tr>{rows}</table></div></div>'
        )
    return "\n".join(parts)


def _table(title: str, rows: pl.DataFrame, swept: list[str]) -> str:
    names = ["combination", "recording", *swept, "pnl", *_TOLD]
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(value))}</td>" for value in row) + "</tr>"
        for row in rows.select(names).iter_rows()
    )
    return (
        f'<div class="table"><h2>{escape(title)}</h2><div class="scroll"><table><tr>{heads}</tr>'
        f"{body}</table></div></div>"
    )


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.10g}" if isinstance(value, float) else str(value)
