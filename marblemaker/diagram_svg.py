"""Marble diagrams as pictures: one SVG file of its own, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from msgspec import Struct

from marblemaker.diagram import Diagram, Marble
from marblemaker.marbles import brief, duration, fields_of
from streams.events import Decision, Refusal
from streams.instant import iso

__all__ = ["svg"]

_LEFT: Final = 104
_RIGHT: Final = 40
_TOP: Final = 62
_RADIUS: Final = 13
_PITCH: Final = 2 * _RADIUS + 4
_GAP: Final = 26
"""From the line of a lane to the top of the next one's marbles."""
_NARROWEST: Final = 960
_WIDEST: Final = 4_000
_ROOM: Final = 44
"""Pixels that a marble of the busiest lane gets, if the picture does not become too wide."""
_ROWS: Final = 8
"""How many marbles are stacked on one place before they overlap."""
_TICKS: Final = 8
_CHAR: Final = 6.2
"""Width of a letter of a caption, pixels."""

_STYLE: Final = """
:root { color-scheme: light dark }
svg { --paper: #ffffff; --ink: #1d2433; --faint: #8a93a6; --rule: #c9cfdb; --grid: #eef0f5;
  --signal: #3b6fd4; --target: #0f8f7e; --answer: #7a6a55; --operator: #8658c9; --quote: #1f8a3b;
  --withdraw: #c8372d; --hold: #c07a00; --order: #4a5568; --fill: #b0307f }
@media (prefers-color-scheme: dark) {
  svg { --paper: #14171f; --ink: #e6e9f0; --faint: #8d97ab; --rule: #3d4558; --grid: #20242f;
    --signal: #5d90f0; --target: #2bb3a0; --answer: #a8967e; --operator: #a97fe6; --quote: #3fae5c;
    --withdraw: #ea5f55; --hold: #dd9a2e; --order: #7c8aa3; --fill: #d85ba9 }
}
.paper { fill: var(--paper) }
text { font: 12px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink) }
.title { font-size: 14px; font-weight: 600 }
.lane { font-weight: 600; text-anchor: end }
.axis, .caption, .note { font-size: 11px; fill: var(--faint) }
.axis { text-anchor: middle }
.caption { text-anchor: middle; font-size: 10.5px; paint-order: stroke; stroke: var(--paper);
  stroke-width: 3px }
.name { font-size: 10.5px; font-weight: 600; fill: #ffffff; text-anchor: middle;
  dominant-baseline: central; pointer-events: none }
.line { stroke: var(--rule); stroke-width: 1.5 }
.head { fill: var(--rule) }
.grid { stroke: var(--grid) }
.cause { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 2 3 }
.stem { stroke: var(--rule) }
.marble circle { stroke: var(--paper); stroke-width: 1.5 }
.marble:hover circle { stroke: var(--ink); stroke-width: 2 }
.signal { fill: var(--signal) } .target { fill: var(--target) } .answer { fill: var(--answer) }
.operator { fill: var(--operator) } .quote { fill: var(--quote) } .withdraw { fill: var(--withdraw) }
.hold { fill: var(--hold) } .order { fill: var(--order) } .fill { fill: var(--fill) }
""".strip()  # noqa: E501

_KINDS: Final = {
    "target": "target", "trades": "target", "status": "answer", "account": "answer",
    "anchor": "operator", "orders": "order", "updates": "order", "fills": "fill",
}  # fmt: skip


class _Spot(Struct):
    """Where a marble is drawn: pixels from the left, and how high it is stacked."""

    marble: Marble
    x: float
    row: int


def svg(diagram: Diagram) -> str:
    """Draw a diagram: a time line a lane, marbles at their exact times, what they say on pointing.

    Marbles that would cover each other are stacked. A dotted line leads from an input to what was
    decided of it at once. Colours follow ``prefers-color-scheme``; nothing outside is loaded.
    """
    busiest = max((len(marbles) for marbles in diagram.lanes.values()), default=0)
    width = min(max(_NARROWEST, _LEFT + _RIGHT + busiest * _ROOM), _WIDEST)
    span_ns = max(diagram.columns * diagram.step_ns, 1)
    scale = (width - _LEFT - _RIGHT) / span_ns

    def x_of(ts: int) -> float:
        return _LEFT + (ts - diagram.start_ns) * scale

    spots = {lane: _stack(marbles, x_of) for lane, marbles in diagram.lanes.items()}
    lines: dict[str, float] = {}
    y: float = _TOP
    for lane, placed in spots.items():
        y += 2 * _RADIUS + max((spot.row for spot in placed), default=0) * _PITCH
        lines[lane] = y
        y += _GAP
    height = y + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img">',
        f"<title>{escape(diagram.title or 'marble diagram')}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height:.0f}"/>',
        f'<text class="title" x="16" y="24">{escape(diagram.title or "marble diagram")}</text>',
        f'<text class="note" x="16" y="42">from {iso(diagram.start_ns)}, '
        f"{duration(span_ns)}{escape(''.join(f'; {note}' for note in diagram.notes))}</text>",
        *_axis(diagram.start_ns, span_ns, scale, y, _TOP - 8),
    ]
    for lane, line_y in lines.items():
        parts += [
            f'<text class="lane" x="{_LEFT - 16}" y="{line_y + 4:.1f}">{escape(lane)}</text>',
            f'<line class="line" x1="{_LEFT - 8}" y1="{line_y:.1f}" x2="{width - 22}" '
            f'y2="{line_y:.1f}"/>',
            f'<path class="head" d="M{width - 14} {line_y:.1f}l-9 -4.5v9z"/>',
        ]
    parts += _causes(spots, lines)
    for lane, placed in spots.items():
        parts += _lane(lane, placed, lines[lane], diagram.start_ns)
    for lane, column in diagram.ends.items():
        x = x_of(diagram.start_ns + column * diagram.step_ns)
        parts.append(
            f'<line class="line" x1="{x:.1f}" y1="{lines[lane] - _RADIUS:.1f}" x2="{x:.1f}" '
            f'y2="{lines[lane] + _RADIUS:.1f}"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _stack(marbles: Sequence[Marble], x_of: object) -> list[_Spot]:
    assert callable(x_of)
    until: list[float] = []
    placed: list[_Spot] = []
    for marble in marbles:
        x = x_of(marble.ts)
        free = [row for row, right in enumerate(until) if right <= x]
        if free:
            row = free[0]
        elif len(until) < _ROWS:
            row = len(until)
            until.append(0.0)
        else:
            row = min(range(len(until)), key=lambda i: until[i])
        until[row] = x + _half(marble) * 2 + 2
        placed.append(_Spot(marble, x, row))
    return placed


def _half(marble: Marble) -> float:
    """Half the width of a marble: longer names make longer ones."""
    return max(_RADIUS, 3.4 * len(marble.name) + 4)


def _kind(lane: str, marble: Marble) -> str:
    event = marble.event
    if isinstance(event, Refusal):
        return "withdraw"
    if isinstance(event, Decision):
        if event.action in ("withdraw", "refuse"):
            return "withdraw"
        return "hold" if event.action in ("hold", "retract") else "quote"
    if lane.startswith("signal"):
        return "signal"
    return "operator" if lane.startswith("residual") else _KINDS[lane]


def _lane(lane: str, placed: Sequence[_Spot], line_y: float, start_ns: int) -> Iterator[str]:
    bottom = [spot for spot in placed if spot.row == 0]
    for spot in placed:
        y = line_y - spot.row * _PITCH
        if spot.row:
            yield (
                f'<line class="stem" x1="{spot.x:.1f}" y1="{y:.1f}" x2="{spot.x:.1f}" '
                f'y2="{line_y:.1f}"/>'
            )
    # The later one lies on top, so that the order can be seen where they overlap.
    for spot in placed:
        y, half = line_y - spot.row * _PITCH, _half(spot.marble)
        told = "\n".join(
            [
                f"{spot.marble.name}  {brief(spot.marble.event)}",
                f"{iso(spot.marble.ts)} (+{duration(spot.marble.ts - start_ns, places=True)})",
                *(f"{name} {text}" for name, text in fields_of(spot.marble.event)),
            ]
        )
        shape = (
            f'<circle class="{_kind(lane, spot.marble)}" cx="{spot.x:.1f}" cy="{y:.1f}" '
            f'r="{_RADIUS}"/>'
            if half == _RADIUS
            else f'<rect class="{_kind(lane, spot.marble)}" x="{spot.x - half:.1f}" '
            f'y="{y - _RADIUS:.1f}" width="{2 * half:.1f}" height="{2 * _RADIUS}" rx="{_RADIUS}"/>'
        )
        yield (
            f'<g class="marble"><title>{escape(told)}</title>{shape}'
            f'<text class="name" x="{spot.x:.1f}" y="{y:.1f}">{escape(spot.marble.name)}</text></g>'
        )
    right = 0.0
    for i, spot in enumerate(bottom):
        text = brief(spot.marble.event)
        half = len(text) * _CHAR / 2
        following = bottom[i + 1].x - 4 if i + 1 < len(bottom) else float("inf")
        # A caption is written where it is not taken for a neighbour's.
        if text and spot.x - half >= right and spot.x + half <= following:
            yield (
                f'<text class="caption" x="{spot.x:.1f}" y="{line_y + _RADIUS + 10:.1f}">'
                f"{escape(text)}</text>"
            )
            right = spot.x + half + 6


def _causes(spots: dict[str, list[_Spot]], lines: dict[str, float]) -> Iterator[str]:
    """Lines from an input to the decisions that were made of it at its own instant."""
    inputs = {
        spot.marble.seq: (spot, lines[lane])
        for lane in spots
        if lane.startswith("signal") or lane in ("target", "status", "account")
        for spot in spots[lane]
        if spot.marble.seq
    }
    for spot in spots.get("decisions", ()):
        found = inputs.get(spot.marble.seq)
        if found is not None and found[0].marble.ts == spot.marble.ts:
            top = found[1] - found[0].row * _PITCH
            bottom = lines["decisions"] - spot.row * _PITCH
            yield (
                f'<line class="cause" x1="{spot.x:.1f}" y1="{top:.1f}" x2="{spot.x:.1f}" '
                f'y2="{bottom:.1f}"/>'
            )


def _axis(start_ns: int, span_ns: int, scale: float, bottom: float, top: float) -> Iterator[str]:
    step, factors = 1, (1, 2, 5)
    while span_ns // step > _TICKS:
        step = next(
            (base for base in (step // _lead(step) * factor for factor in factors) if base > step),
            step // _lead(step) * 10,
        )
    for ns in range(0, span_ns + 1, step):
        x = _LEFT + ns * scale
        yield f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom - 4:.1f}"/>'
        label = f"+{duration(ns)}" if ns else iso(start_ns)[11:23]
        yield f'<text class="axis" x="{x:.1f}" y="{bottom + 14:.1f}">{label}</text>'


def _lead(number: int) -> int:
    return int(str(number)[0])
