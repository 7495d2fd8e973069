"""Page: the report as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from marblemaker.report.cards import card
from marblemaker.report.data import ReportData
from marblemaker.report.panels import Line, Panel, marks, outside, panels
from marblemaker.report.tables import head, mode_text, tables
from streams.instant import iso

__all__ = ["page"]

_HERE: Final = Path(__file__).parent
_TALL: Final = {"prices": 390, "shift": 270, "inventory": 270, "clock": 230}
_USUAL: Final = 210
_LANE: Final = 27
_SLOT: Final = re.compile(r"\{\{([A-Z_]+)\}\}")
_MODES: Final = ("live", "paper", "dry", "replay")


def page(data: ReportData) -> str:
    """Write the report as HTML: scripts, styles and numbers are all inside.

    A content security policy forbids the page to load anything. All texts that come from outside
    are escaped.
    """
    drawn = panels(data)
    mode = data.manifest.mode
    pair = " → ".join(data.names[role] for role in _roles(data))
    first, last = data.grid.first, data.grid.last
    filled = {
        "TITLE": escape(f"{mode.upper()} {pair} {iso(first)[:10]} · {data.run.name}"),
        "CSS": (_HERE / "page.css").read_text(encoding="utf-8"),
        "MODE": escape(mode.upper()),
        "MODE_CLASS": mode if mode in _MODES else "other",
        "MODE_TEXT": escape(mode_text(mode)),
        "HEADING": escape(pair),
        "SPAN": escape(f"{iso(first)} to {iso(last)} · {data.run.name}"),
        "HEAD": head(data),
        "CHARTS": "\n".join(_chart(panel) for panel in drawn),
        "TABLES": tables(data),
        "PLOTLY": import_module("plotly.offline").get_plotlyjs(),
        "DATA": _json(_document(data, drawn)),
        "JS": (_HERE / "page.js").read_text(encoding="utf-8"),
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    return _SLOT.sub(lambda slot: filled[slot[1]], template)


def _roles(data: ReportData) -> list[str]:
    return sorted(data.names, key=lambda role: role == "target")


def _chart(panel: Panel) -> str:
    missing = f'<p class="missing">{escape(panel.missing)}</p>' if panel.missing else ""
    body = ""
    if panel.lines:
        body = f'<div class="legend" id="legend-{panel.key}"></div>'
        body += (
            f'<div class="chart" id="chart-{panel.key}" style="height:{_height(panel)}px"></div>'
        )
    save = f'<button type="button" id="save-{panel.key}">PNG</button>' if panel.lines else ""
    return (
        f'<div class="panel"><div class="top"><h2>{escape(panel.title)}</h2>{save}</div>'
        f'<p class="caption">{escape(panel.caption)}</p>{missing}{body}</div>'
    )


def _height(panel: Panel) -> int:
    if panel.lanes:
        return 44 + 10 + _LANE * len(panel.lanes)
    return _TALL.get(panel.key, _USUAL)


def _json(document: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever its texts hold."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Columns:
    """Columns of numbers in base64; equal ones are stored once."""

    def __init__(self, base: int) -> None:
        self.stored: list[dict[str, str]] = []
        self._base = base
        self._known: dict[tuple[str, bytes], int] = {}

    def ns(self, ts: npt.NDArray[np.int64]) -> int:
        """Instants as ns since the base: exact in a double up to 104 days."""
        return self._store("f8", (ts - self._base).astype("<f8").tobytes())

    def numbers(self, y: npt.NDArray[np.float64], *, exact: bool) -> int:
        kind = "f8" if exact else "f4"
        return self._store(kind, y.astype(f"<{kind}").tobytes())

    def _store(self, kind: str, raw: bytes) -> int:
        at = self._known.setdefault((kind, raw), len(self.stored))
        if at == len(self.stored):
            self.stored.append({"t": kind, "b": base64.b64encode(raw).decode("ascii")})
        return at


def _document(data: ReportData, drawn: list[Panel]) -> dict[str, Any]:
    base = data.grid.first
    columns = _Columns(base)
    document: dict[str, Any] = {
        "base": str(base),
        "span": [0, data.grid.last - base],
        "zone": str(data.zone),
        "file": data.run.resolve().name,
        "outside": [_band(one, base) for one in outside(data)],
        "marks": [{"ts": one.ts - base, "label": one.label} for one in marks(data)],
        "panels": [_panel(one, columns, base) for one in drawn],
    }
    if data.decided is not None:
        shown = data.decided.shown
        told = [card(row, data.settings) for row in shown.iter_rows(named=True)]
        packed = gzip.compress(json.dumps(told, ensure_ascii=False).encode(), 6, mtime=0)
        document["decisions"] = {
            "x": columns.ns(shown["ts"].to_numpy()),
            "cards": base64.b64encode(packed).decode("ascii"),
        }
    document["columns"] = columns.stored
    return document


def _band(one: Any, base: int) -> dict[str, Any]:
    return {"start": one.start - base, "end": one.end - base, "colour": one.colour}


def _panel(panel: Panel, columns: _Columns, base: int) -> dict[str, Any]:
    return {
        "key": panel.key,
        "unit": panel.unit,
        "unit2": panel.unit2,
        "log": panel.log,
        "centred": panel.centred,
        "height": _height(panel),
        "lanes": panel.lanes,
        "labelled": panel.labelled,
        "bands": [_band(one, base) for one in panel.bands],
        "limits": [{"y": one.y, "label": one.label} for one in panel.limits],
        "lines": [_line(one, columns, exact=panel.key == "prices") for one in panel.lines],
    }


def _line(line: Line, columns: _Columns, *, exact: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": line.name,
        "x": columns.ns(line.series.ts),
        "y": columns.numbers(line.series.y, exact=exact),
        "kind": line.kind,
        "colour": line.colour,
        "axis": line.axis,
        "dash": line.dash,
        "unit": line.unit,
        "digits": line.digits,
        "lane": line.lane,
    }
    if line.texts is not None:
        told["texts"] = line.texts
    if line.ends is not None:
        told["e"] = columns.ns(line.ends)
    return told
