"""Pictures: the four panels of the tutorial as PNG files, drawn without a screen or a browser."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from marblemaker.report.data import ReportData
from marblemaker.report.panels import Line, Panel, marks, outside, panels

__all__ = ["NAMES", "PicturesError", "pictures"]

_FOUR: Final = ("prices", "shift", "inventory", "clock")
NAMES: Final = tuple(f"{i}-{key}.png" for i, key in enumerate(_FOUR, start=1))
"""The files, in the order of the panels."""
_COLOURS: Final = {
    "signal": "#2f6fd6", "signal2": "#00a0b5", "signal3": "#7a6ff0", "target": "#d9730d",
    "bid": "#1a9850", "ask": "#d1344b", "centre": "#8052c8", "shift": "#8052c8",
    "buy": "#0f7a3d", "sell": "#b01030", "position": "#1c2330", "inventory": "#d9730d",
    "faint": "#a9c3ee", "faint2": "#f0c79d", "inside": "#dcefe3", "outside": "#e9ebef",
}  # fmt: skip
_DPI: Final = 150


class PicturesError(RuntimeError):
    """Pictures cannot be drawn on this installation."""


def pictures(data: ReportData, folder: Path) -> list[Path]:
    """Draw the four panels into ``folder``: ``1-prices.png`` to ``4-clock.png``.

    Errors: PicturesError if matplotlib is not installed, naming the extra that brings it.
    """
    try:
        # By name, as they are optional and matplotlib's types are not complete.
        agg = import_module("matplotlib.backends.backend_agg")
        drawing = import_module("matplotlib.figure")
    except ImportError:
        raise PicturesError(
            "--png draws with matplotlib, which is not installed; install the extra with "
            "`pip install 'marblemaker[png]'`, or leave --png out"
        ) from None
    drawn = {panel.key: panel for panel in panels(data)}
    paths = []
    for key, name in zip(_FOUR, NAMES, strict=True):
        figure = drawing.Figure(figsize=(12, 5), layout="constrained")
        agg.FigureCanvasAgg(figure)
        _draw(figure, drawn[key], data)
        paths.append(folder / name)
        figure.savefig(paths[-1], dpi=_DPI)
    return paths


def _draw(figure: Any, panel: Panel, data: ReportData) -> None:
    dates = import_module("matplotlib.dates")
    left = figure.add_subplot()
    right = left.twinx() if panel.unit2 else None
    handles = []
    for line in panel.lines:
        axes = right if line.axis == 2 and right is not None else left
        handles.append(_line(axes, line))
    for band in panel.bands or outside(data):
        left.axvspan(
            _times(np.array([band.start]))[0], _times(np.array([band.end]))[0],
            color=_COLOURS[band.colour], zorder=0, linewidth=0,
        )  # fmt: skip
    if panel.log:
        left.set_yscale("log")
    for mark in marks(data):
        at = _times(np.array([mark.ts]))[0]
        left.axvline(at, color="#7a8598", linewidth=0.8, linestyle="--", zorder=1)
        if panel.labelled:
            opens = mark.label.startswith("open")
            left.annotate(
                mark.label, (at, 1.0), xycoords=("data", "axes fraction"), va="top", fontsize=8,
                ha="left" if opens else "right", xytext=(4 if opens else -4, -4),
                textcoords="offset points", color="#5d6878",
            )  # fmt: skip
    _limits(left, panel)
    for axes in (left, right):
        if panel.centred and axes is not None:
            most = max(map(abs, axes.get_ylim()))
            axes.set_ylim(-most, most)
    if not panel.lines:
        left.text(0.5, 0.5, panel.missing, ha="center", transform=left.transAxes, color="#5d6878")
    left.set_xlim(_times(np.array([data.grid.first, data.grid.last])))
    locator = dates.AutoDateLocator()
    left.xaxis.set_major_locator(locator)
    left.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    left.set_xlabel("UTC")
    left.set_ylabel(panel.unit)
    if right is not None:
        right.set_ylabel(panel.unit2)
    left.grid(color="#eceff4", linewidth=0.8)
    left.set_axisbelow(True)
    pair = " → ".join(sorted(data.names.values(), key=lambda n: n == data.names.get("target")))
    left.set_title(
        f"{panel.title}    {data.manifest.mode.upper()}  {pair}".replace("$", r"\$"),
        loc="left", fontsize=12,
    )  # fmt: skip
    if handles:
        names = [line.name.replace("$", r"\$") for line in panel.lines]
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(4, len(handles)), fontsize=9,
            frameon=False,
        )  # fmt: skip


def _line(axes: Any, line: Line) -> Any:
    times, colour = _times(line.series.ts), _COLOURS.get(line.colour, "#5d6878")
    if line.kind == "marks":
        marker = {"buy": "^", "sell": "v"}.get(line.colour, "o")
        (handle,) = axes.plot(
            times, line.series.y, marker, color=colour, markersize=6, markeredgecolor="white",
            markeredgewidth=0.5, zorder=4,
        )  # fmt: skip
        return handle
    (handle,) = axes.plot(
        times, line.series.y, color=colour, linewidth=0.8 if line.dash else 1.0,
        linestyle=":" if line.dash else "-", zorder=2,
        drawstyle="steps-post" if line.kind == "step" else "default",
    )  # fmt: skip
    return handle


def _limits(axes: Any, panel: Panel) -> None:
    if not panel.limits:
        return
    low, high = axes.get_ylim()
    for limit in panel.limits:
        near = abs(limit.y) <= (30 if panel.log else 3) * max(abs(low), abs(high))
        if near:
            axes.axhline(limit.y, color="#d1344b", linewidth=0.8, linestyle="--", zorder=1)
            axes.annotate(
                f"{limit.label} {limit.y:g}", (1.0, limit.y), xycoords=("axes fraction", "data"),
                ha="right", va="bottom", fontsize=8, color="#d1344b",
            )  # fmt: skip


def _times(ts: Any) -> Any:
    """As matplotlib takes them; a picture needs no more than microseconds."""
    return ts.astype("datetime64[ns]").astype("datetime64[us]")
