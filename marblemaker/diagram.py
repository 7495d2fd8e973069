"""Marble diagrams: a window of a run as text that a person reads and a test takes as its input.

One line a lane in the notation of ``reactivex.testing.marbles``, and below it a legend: what each
marble stands for, with its exact time and number. Nothing is lost in the columns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from msgspec.structs import fields as struct_fields

from marblemaker.calendar import ALWAYS_OPEN
from marblemaker.marbles import (
    Event,
    OrderRow,
    OwnFill,
    distance_of,
    duration,
    fields_of,
    kinds_of,
    value_of,
)
from marblemaker.settings import SettingsError, parse_duration_ns
from marblemaker.when import WhenError, parse_when
from streams.events import (
    AccountEvent,
    Anchor,
    Decision,
    OrderUpdate,
    Quote,
    Refusal,
    Residual,
    Status,
    Trade,
)
from streams.instant import iso
from streams.recording import FILES, SIGNALS, Manifest, did_you_mean

__all__ = [
    "INPUT_LANES",
    "LANES",
    "MAX_COLUMNS",
    "Diagram",
    "DiagramError",
    "Marble",
    "parse_diagram",
]

MAX_COLUMNS: Final = 4_000
"""Widest diagram; beyond it nobody can follow a line."""
DEFAULT_START: Final = 1_781_704_800_000_000_000
"""2026-06-17T14:00:00Z, within a session of New York: where a diagram starts that does not say."""
DEFAULT_STEP: Final = 1_000_000
_LEGEND_WIDTH: Final = 100


class DiagramError(ValueError):
    """A diagram cannot be drawn, or a text is not one."""


_RESIDUALS: Final = ("residual", *(f"residual_{n}" for n in range(2, len(SIGNALS) + 1)))
LANES: Final[dict[str, str]] = {
    **{name: "s" + chr(97 + n) * (n > 0) for n, name in enumerate(SIGNALS)},
    "target": "t",
    "trades": "x",
    "status": "u",
    "account": "a",
    **{name: "r" + chr(97 + n) * (n > 0) for n, name in enumerate(_RESIDUALS)},
    "anchor": "c",
    "wanted": "v",
    "decisions": "d",
    "orders": "o",
    "updates": "e",
    "fills": "f",
}
"""All lanes, from the top of a diagram to its bottom, and what the names of their marbles start
with. Decisions are called by their action instead: see ``Diagram.of``."""

INPUT_LANES: Final = tuple(name for name in LANES if name in FILES)
"""The lanes that a run is made from."""

_ACTIONS: Final = {"quote": "q", "withdraw": "w", "retract": "k", "refuse": "n", "hold": "h"}


class Marble(Struct, frozen=True):
    """One event in a lane."""

    name: str
    event: Event

    @property
    def ts(self) -> int:
        """Instant of the event, ns."""
        return self.event.ts

    @property
    def seq(self) -> int:
        """Number of the input that it is, or was made from; 0 when it has none."""
        return getattr(self.event, "seq", 0)


class Diagram(Struct, frozen=True, kw_only=True):
    """A window of a run, or the input of a test, lane by lane."""

    start_ns: int
    """Instant of the first column, ns since the Unix epoch."""
    step_ns: int
    """What one column spans, ns."""
    columns: int
    """Number of columns."""
    lanes: dict[str, list[Marble]]
    """Marbles in order of time, by lane, from top to bottom."""
    title: str = ""
    """What it shows, for people."""
    overrides: tuple[str, ...] = ()
    """Settings that it was drawn under, where they are not the defaults: ``section.key=value``."""
    ends: dict[str, int] = {}
    """Column in which a lane completes, where it does."""
    notes: tuple[str, ...] = ()
    """What else should be known of it."""

    @property
    def end_ns(self) -> int:
        """Instant up to which time passes, ns: the last column is over."""
        return self.start_ns + self.columns * self.step_ns

    @classmethod
    def of(
        cls,
        lanes: Mapping[str, Sequence[Event]],
        *,
        start_ns: int,
        end_ns: int,
        step_ns: int,
        title: str = "",
        overrides: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Diagram:
        """Name the events of each lane (``s1``, ``s2`` … in ``signal``, see ``LANES``) and lay out.

        A decision is ``q`` for quote, ``w`` withdraw, ``h`` hold, ``k`` retract, ``n`` refuse; an
        order has its own number.

        Units: ns; both ends are within.
        Errors: DiagramError if it would be wider than ``MAX_COLUMNS``.
        """
        columns = (end_ns - start_ns) // step_ns + 1
        if columns > MAX_COLUMNS:
            least = -(-(end_ns - start_ns) // (MAX_COLUMNS - 1))
            raise DiagramError(
                f"{duration(end_ns - start_ns)} in steps of {duration(step_ns)} are {columns:,} "
                f"columns, a diagram has at most {MAX_COLUMNS:,}; use a shorter window, or a step "
                f"(--step) of at least {duration(least)}"
            )
        named = {
            lane: [
                Marble(name, event)
                for name, event in zip(_names(lane, events), events, strict=True)
            ]
            for lane, events in lanes.items()
        }
        return cls(
            start_ns=start_ns,
            step_ns=step_ns,
            columns=columns,
            lanes=named,
            title=title,
            overrides=tuple(overrides),
            notes=tuple(notes),
        )

    def events(self, lane: str) -> list[Any]:
        """The events of a lane, in order; none if it is not there."""
        return [marble.event for marble in self.lanes.get(lane, ())]

    def lookup(self) -> dict[str, Event]:
        """Events by the name of their marble: the ``lookup`` of reactivex's marble functions."""
        return {marble.name: marble.event for lane in self.lanes.values() for marble in lane}

    def inputs(self) -> list[tuple[str, Any]]:
        """The inputs of all lanes with their lane, in the one order in which a run takes them.

        By time; at one instant by number if all have one, else in the order of a recording's files.

        Errors: DiagramError if the numbers go back while time does not.
        """
        found = [
            (lane, marble)
            for lane in sorted(self.lanes, key=lambda lane: FILES.get(lane, -1))
            if lane in FILES
            for marble in self.lanes[lane]
        ]
        if self.numbered:
            found.sort(key=lambda item: (item[1].ts, item[1].seq))
            for (_, before), (_, after) in pairwise(found):
                if after.seq <= before.seq:
                    raise DiagramError(
                        f"{after.name} has seq {after.seq} and comes after {before.name} with seq "
                        f"{before.seq}; numbers must rise along time. Mend it, or leave out seq="
                    )
        else:
            found.sort(key=lambda item: item[1].ts)
        return [(lane, marble.event) for lane, marble in found]

    @property
    def numbered(self) -> bool:
        """Whether every input has its sequence number."""
        return all(
            marble.seq
            for lane, marbles in self.lanes.items()
            if lane in FILES
            for marble in marbles
        )

    def line(self, lane: str) -> str:
        """The marbles of a lane as reactivex's ``hot``, ``cold`` and ``exp`` take them.

        What falls beneath the letters of the marble before it joins it in a group, so a group
        starts in the column of its first marble.
        """
        line = _line(self.lanes[lane], self.start_ns, self.step_ns)
        end = self.ends.get(lane)
        if end is not None:
            return line.ljust(end, "-") + "|"
        return line.ljust(self.columns, "-")

    def text(self) -> str:
        """Write it down; ``parse_diagram`` reads it back with every event as it was."""
        head = [f"# {self.title}"] if self.title else []
        head += [f"# {note}" for note in self.notes]
        head += [f"start  {iso(self.start_ns)}", f"step   {duration(self.step_ns)}"]
        head += [f"set    {override}" for override in self.overrides]
        width = max(map(len, self.lanes), default=0)
        drawn = {lane: self.line(lane) for lane in self.lanes}
        if any(len(line) > self.columns for line in drawn.values()):
            # A group at the end reaches beyond the window; time does not.
            head.append(f"columns {self.columns}")
        lines = [f"{lane:{width}}  {line}" for lane, line in drawn.items()]
        legend: list[str] = []
        for marbles in self.lanes.values():
            for marble in marbles:
                legend += _legend(marble, self.start_ns)
        return "\n".join([*head, "", *lines, "", *legend]).rstrip() + "\n"

    def __str__(self) -> str:
        """The text."""
        return self.text()

    def svg(self) -> str:
        """Draw it as a picture of its own: SVG, light or dark as the reader's system is."""
        from marblemaker.diagram_svg import svg

        return svg(self)

    def _repr_svg_(self) -> str:
        return self.svg()

    def document(self) -> dict[str, Any]:
        """It as JSON knows it: events with all their fields, in the units of the run's files."""
        return {
            "start": iso(self.start_ns),
            "start_ns": self.start_ns,
            "step_ns": self.step_ns,
            "columns": self.columns,
            "title": self.title,
            "settings": list(self.overrides),
            "notes": list(self.notes),
            "lanes": {
                lane: {
                    "diagram": self.line(lane),
                    "marbles": [
                        {"name": marble.name, **asdict(marble.event)} for marble in marbles
                    ],
                }
                for lane, marbles in self.lanes.items()
            },
        }


def _names(lane: str, events: Sequence[Event]) -> Iterator[str]:
    if lane == "orders":
        for event in events:
            assert isinstance(event, OrderRow)
            yield f"o{event.n}"
        return
    counts: dict[str, int] = {}
    for event in events:
        prefix = LANES[lane]
        if lane == "decisions" and isinstance(event, Decision):
            prefix = _ACTIONS[event.action]
        counts[prefix] = counts.get(prefix, 0) + 1
        yield f"{prefix}{counts[prefix]}"


def _line(marbles: Sequence[Marble], start_ns: int, step_ns: int) -> str:
    drawn, i = "", 0
    while i < len(marbles):
        column, names = (marbles[i].ts - start_ns) // step_ns, [marbles[i].name]
        i += 1
        # One marble needs a dash behind it, else its neighbour would read as part of its name.
        while i < len(marbles):
            over = column + (len(_token(names)) if len(names) > 1 else len(names[0]) + 1)
            if (marbles[i].ts - start_ns) // step_ns >= over:
                break
            names.append(marbles[i].name)
            i += 1
        drawn = drawn.ljust(column, "-") + _token(names)
    return drawn


def _token(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"({','.join(names)})"


def _legend(marble: Marble, start_ns: int) -> list[str]:
    told = [f"at=+{duration(marble.ts - start_ns, places=True)}"]
    told += [f"{name}={text}" for name, text in fields_of(marble.event)]
    lines = [f"{marble.name}:"]
    for word in told:
        if len(lines[-1]) + 1 + len(word) > _LEGEND_WIDTH and not lines[-1].endswith(":"):
            lines.append("   ")
        lines[-1] += f" {word}"
    return lines


# ---------------------------------------------------------------- reading


_TOKENS: Final = re.compile(r"(\([^()]*\))|(-+)|(\||#)|([^-,()#|]+)")
_ENTRY: Final = re.compile(r"([^\s:]+):(?:\s+(.*))?", re.DOTALL)
_FIELD: Final = re.compile(r'\s*([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)\s*')


class _Place(Struct, frozen=True):
    """Where a marble stands: its column, and the last one that its group covers."""

    name: str
    column: int
    last: int


def parse_diagram(text: str) -> Diagram:
    """Read a diagram back: lanes, start, step, and every marble as the event it stands for.

    A line each for ``start`` (ISO, UTC), ``step`` (a duration), ``columns`` (how many there are,
    where a line does not say so by its length) and ``set`` (``section.key=value``), all optional;
    for each lane (``LANES``) its name and its marbles; then ``NAME: field=value …``
    for each marble, going on in lines that are indented. ``at=+1.5ms`` is the exact distance from
    the start; without it a marble is at the begin of its column, and may occur more than once. Lines
    that start with ``#`` are comments.

    Prices and sizes are decimals, ``ts_event`` the distance from the event's time. Fields left out
    are absent; so are books without a side. Without ``seq`` inputs of one instant are taken in the
    order of a recording's files.

    >>> diagram = parse_diagram('''
    ...     signal  a---b
    ...     target  -x
    ...     a: bid_px=207.00 ask_px=207.02
    ...     b: bid_px=207.10 ask_px=207.12 ts_event=-3ms
    ...     x: at=+1.25ms bid_px=206.99 ask_px=207.01 bid_sz=5 ask_sz=2.5
    ... ''')
    >>> [(lane, quote.ts - diagram.start_ns, quote.bid_px) for lane, quote in diagram.inputs()]
    [('signal', 0, 207000000000), ('target', 1250000, 206990000000), ('signal', 4000000, 207100000000)]

    Errors: DiagramError naming the line, the value, the rule and the way out.
    """  # noqa: E501
    head: dict[str, str] = {}
    overrides: list[str] = []
    lanes: dict[str, str] = {}
    entries: dict[str, str] = {}
    title = ""
    notes: list[str] = []
    last: str | None = None
    for number, line in enumerate(inspect.cleandoc(text).split("\n"), start=1):
        where = f"line {number}"
        if not line.strip():
            last = None
            continue
        if line.startswith("#"):
            title, notes = (title, [*notes, line[1:].strip()]) if title else (line[1:].strip(), [])
            continue
        if line[0].isspace() and last is not None:
            entries[last] += f" {line.strip()}"
            continue
        last = None
        word, _, rest = line.strip().partition(" ")
        if word in ("start", "step", "columns"):
            head[word] = rest.strip()
        elif word == "set":
            overrides.append(rest.strip())
        elif word in LANES:
            if word in lanes:
                raise DiagramError(f"{where}: the lane {word} is there twice; join the two lines")
            lanes[word] = rest.replace(" ", "")
        elif entry := _ENTRY.fullmatch(line.strip()):
            last = entry[1]
            if last in entries:
                raise DiagramError(f"{where}: {last} is explained twice; leave one out")
            entries[last] = entry[2] or ""
        else:
            raise DiagramError(
                f"{where}: {word!r} is no lane{did_you_mean(word, LANES)}; a line is a lane "
                f"({', '.join(LANES)}), start, step, columns, set, or NAME: field=value …"
            )
    if not lanes:
        raise DiagramError(
            "the text has no lane, so there is nothing to play; write one such as 'signal  -a--b'"
        )
    start_ns = _start(head["start"]) if "start" in head else DEFAULT_START
    step_ns = _step(head["step"]) if "step" in head else DEFAULT_STEP
    places: dict[str, list[_Place]] = {}
    ends: dict[str, int] = {}
    columns = 1
    for lane, marbles in lanes.items():
        places[lane], end, width = _places(lane, marbles)
        columns = max(columns, width)
        if end is not None:
            ends[lane] = end
    if "columns" in head:
        columns = _columns(head["columns"])
    found = {
        lane: _marbles(lane, lane_places, entries, start_ns, step_ns)
        for lane, lane_places in places.items()
    }
    unused = set(entries) - {place.name for lane in places.values() for place in lane}
    if unused:
        raise DiagramError(
            f"the legend explains {', '.join(sorted(unused))}, which no lane has; "
            f"put it into a lane or leave it out"
        )
    return Diagram(
        start_ns=start_ns,
        step_ns=step_ns,
        columns=columns,
        lanes=found,
        title=title,
        overrides=tuple(overrides),
        ends=ends,
        notes=tuple(notes),
    )


def _start(text: str) -> int:
    try:
        ts = parse_when(text, Manifest(), ALWAYS_OPEN).ts
    except WhenError:
        ts = None
    if ts is None:
        raise DiagramError(
            f"start must be a day and time in UTC such as 2026-06-17T14:31:07.123456789Z, "
            f"was {text!r}"
        )
    return ts


def _step(text: str) -> int:
    try:
        step_ns = parse_duration_ns(text, "step")
    except SettingsError as error:
        raise DiagramError(str(error)) from None
    if step_ns <= 0:
        raise DiagramError(f"step must be at least 1ns, was {text!r}")
    return step_ns


def _columns(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise DiagramError(f"columns must be a number of columns such as 120, was {text!r}")
    return int(text)


def _places(lane: str, marbles: str) -> tuple[list[_Place], int | None, int]:
    """Where the marbles of a line stand, the column in which it completes, and its width."""
    places: list[_Place] = []
    end: int | None = None
    column = at = 0
    while at < len(marbles):
        token = _TOKENS.match(marbles, at)
        if token is None:
            raise DiagramError(
                f"{lane}: {marbles[at]!r} in column {column} is not marble notation; names are "
                f"joined in one column as (a,b)"
            )
        group, _, stop, name = token.groups()
        at, width = token.end(), token.end() - token.start()
        if stop == "#":
            raise DiagramError(
                f"{lane}: # in column {column} is a stream that fails, and no feed of a run does; "
                f"say it in the status lane: kind=disconnect"
            )
        if end is not None and (group or stop or name):
            raise DiagramError(f"{lane}: there is more after | in column {end}; nothing may follow")
        if stop:
            end = column
        elif name or group:
            names = [name] if name else group[1:-1].split(",")
            last = column if name else column + width - 1
            places += [_Place(one, column, last) for one in names if one]
        column += width
    return places, end, column


def _marbles(
    lane: str, places: Sequence[_Place], entries: Mapping[str, str], start_ns: int, step_ns: int
) -> list[Marble]:
    marbles: list[Marble] = []
    for place in places:
        if place.name not in entries:
            raise DiagramError(
                f"{lane}: the legend does not say what {place.name!r} in column {place.column} is; "
                f"add a line '{place.name}: field=value …'. Names run on to the next -, so two "
                f"marbles in neighbouring columns are written (a,b)"
            )
        ts = start_ns + place.column * step_ns
        fields = _fields(place.name, entries[place.name])
        if "at" in fields:
            ts = start_ns + _at(place.name, fields.pop("at"))
            column = (ts - start_ns) // step_ns
            if not place.column <= column <= place.last:
                raise DiagramError(
                    f"{lane}: {place.name} stands in column {place.column}, its at= is in column "
                    f"{column}; move it there, or leave out at= to have the column count"
                )
        event = _event(lane, place.name, fields, ts)
        if marbles and event.ts < marbles[-1].ts:
            raise DiagramError(
                f"{lane}: {place.name} is before {marbles[-1].name}, which stands left of it; "
                f"time must not go back along a lane"
            )
        marbles.append(Marble(place.name, event))
    return marbles


def _fields(name: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _FIELD.match(text, at)
        if found is None:
            raise DiagramError(
                f"{name}: {text[at:].strip()!r} is not field=value; a text with blanks is written "
                f'in double quotes, reason="not allowed"'
            )
        fields[found[1]] = found[2]
        at = found.end()
    return fields


def _at(name: str, text: str) -> int:
    try:
        return distance_of(text, f"{name}: at")
    except SettingsError as error:
        raise DiagramError(str(error)) from None


def _type_of(lane: str, fields: Mapping[str, str]) -> type[Struct]:
    if lane in SIGNALS or lane == "target":
        return Quote
    if lane.startswith("residual"):
        return Refusal if "by" in fields else Residual
    if lane == "anchor":
        return Refusal if "by" in fields else Anchor
    others: dict[str, type[Struct]] = {
        "trades": Trade, "status": Status, "account": AccountEvent, "wanted": Decision,
        "decisions": Decision, "orders": OrderRow, "updates": OrderUpdate, "fills": OwnFill,
    }  # fmt: skip
    return others[lane]


_ABSENT: Final = {
    "seq": 0, "ts_event": None, "bid_px": None, "ask_px": None, "bid_sz": None, "ask_sz": None,
    "flags": 0,
}  # fmt: skip
"""Fields that a struct requires and a text may leave out."""


def _event(lane: str, name: str, fields: Mapping[str, str], ts: int) -> Any:
    event_type = _type_of(lane, fields)
    kinds = kinds_of(event_type)
    values: dict[str, Any] = {}
    for field, default in _ABSENT.items():
        if field in kinds and (field in ("seq", "flags") or type(None) in kinds[field]):
            values[field] = default
    values["ts"] = ts
    for field, text in fields.items():
        if field not in kinds or field == "ts":
            raise DiagramError(
                f"{name}: a marble of {lane} has no field {field!r}{did_you_mean(field, kinds)}; "
                f"it has at, {', '.join(one for one in kinds if one != 'ts')}"
            )
        try:
            values[field] = value_of(field, text, kinds[field], ts)
        except (ValueError, KeyError) as error:
            raise DiagramError(
                f"{name}: {field}={text} cannot be read: {error}; see docs/testing.md for how "
                f"values are written"
            ) from None
    given: Any = values
    lacking = [f.name for f in struct_fields(event_type) if f.required and f.name not in values]
    if lacking:
        raise DiagramError(
            f"{name}: Object missing required field `{lacking[0]}` (a marble of {lane})"
        )
    if event_type.__struct_config__.array_like:
        # Its fields are told by their place; those that are left out have their defaults.
        given = [values.get(field.name, field.default) for field in struct_fields(event_type)]
    try:
        return msgspec.convert(given, event_type)
    except msgspec.ValidationError as error:
        raise DiagramError(f"{name}: {error} (a marble of {lane})") from None
