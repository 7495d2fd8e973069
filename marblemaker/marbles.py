"""What the marbles of a diagram stand for, and their values as text: exact both ways."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from marblemaker.settings import parse_duration_ns
from streams.events import (
    BUY,
    SELL,
    SIDE_NAMES,
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
from streams.instrument import format_units, to_units

__all__ = [
    "Event",
    "OrderRow",
    "OwnFill",
    "brief",
    "distance_of",
    "duration",
    "fields_of",
    "kinds_of",
    "value_of",
]


class OrderRow(Struct, frozen=True, kw_only=True):
    """One of our orders: a row of ``orders.parquet``."""

    ts: int
    n: int
    side: str
    type: str
    px: int | None = None
    qty: int
    status: str
    filled: int = 0
    ts_last: int


class OwnFill(Struct, frozen=True, kw_only=True):
    """One fill of ours: a row of ``fills.parquet``."""

    ts: int
    n: int
    side: str
    px: int
    qty: int
    liquidity: str | None = None
    fee: int = 0


Event: TypeAlias = (
    Quote
    | Trade
    | Status
    | AccountEvent
    | Residual
    | Anchor
    | Refusal
    | Decision
    | OrderRow
    | OrderUpdate
    | OwnFill
)
"""What a marble stands for."""

_UNITS: Final = frozenset(
    {
        "bid_px", "ask_px", "bid_sz", "ask_sz", "px", "qty", "fee", "filled", "fill_px", "leaves",
        "position", "target_bid_px", "target_ask_px", "level_step", "refused_bid_px",
        "refused_ask_px", "refused_bid_sz", "refused_ask_sz",
    }
)  # fmt: skip
"""Fields in 1e-9, written as decimals."""
_TIMES: Final = frozenset({"ts_event", "signal_ts", "target_ts", "ts_last"})
"""Fields that are instants, written as the distance from the event's own."""


def duration(ns: int, *, places: bool = False) -> str:
    """Write a span exactly in its largest unit; with ``places`` in ms, always to the ns.

    >>> duration(1_500_000), duration(2_000_000_000), duration(1_500_000, places=True)
    ('1.5ms', '2s', '1.500000ms')
    """
    sign, ns = "-" if ns < 0 else "", abs(ns)
    if places:
        return f"{sign}{ns // 10**6}.{ns % 10**6:06d}ms"
    for unit, digits in (("s", 9), ("ms", 6), ("us", 3)):
        whole, rest = divmod(ns, 10**digits)
        if whole:
            return f"{sign}{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") + unit
    return f"{sign}{ns}ns"


def fields_of(event: Event) -> Iterator[tuple[str, str]]:
    """The fields that an event has, without its instant, as the legend writes them: exactly.

    Prices and sizes are decimals, further instants the distance from the event's own, doubles in
    the shortest form that gives the same bits back. What is absent or at its default is left out.
    """
    for field in msgspec.structs.fields(type(event)):
        value = getattr(event, field.name)
        default = None if field.default is msgspec.NODEFAULT else field.default
        if field.name == "ts" or value is None or (not field.required and value == default):
            continue
        if field.name == "seq" and value == 0:
            continue
        yield field.name, _write(field.name, value, event.ts)


def _write(name: str, value: Any, ts: int) -> str:
    if name in _UNITS:
        return format_units(value)
    if name in _TIMES:
        distance = value - ts
        return f"{'+' if distance >= 0 else ''}{duration(distance, places=True)}"
    if name == "side" and not isinstance(value, str):
        return SIDE_NAMES.get(value, "NONE")
    if isinstance(value, str):
        plain = re.fullmatch(r"[\w.:/+-]+", value, re.ASCII)
        return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())
    return repr(value) if isinstance(value, float) else str(value).lower()


def value_of(name: str, text: str, kinds: frozenset[type], ts: int) -> Any:
    """Read back what ``fields_of`` wrote for a field whose Python types are ``kinds``.

    Errors: ValueError or KeyError for a text that it does not write.
    """
    if name in _UNITS:
        return to_units(text, name)
    if name in _TIMES:
        return ts + distance_of(text, name)
    if name == "side" and int in kinds:
        return {"BUY": BUY, "SELL": SELL, "NONE": 0}[text]
    if str in kinds:
        return json.loads(text) if text.startswith('"') else text
    if bool in kinds:
        return {"true": True, "false": False}[text]
    return int(text) if int in kinds else float(text)


def distance_of(text: str, what: str) -> int:
    """Read a span with a sign, such as ``-0.066402ms``, as ns.

    Errors: SettingsError naming ``what``.
    """
    sign = -1 if text.startswith("-") else 1
    return sign * parse_duration_ns(text.lstrip("+-"), what)


@cache
def kinds_of(event_type: type[Struct]) -> dict[str, frozenset[type]]:
    """Which Python types each field of an event may have; of a Literal those of its values."""
    hints = typing.get_type_hints(event_type)

    def flat(hint: Any) -> Iterator[type]:
        arguments = typing.get_args(hint)
        if typing.get_origin(hint) is typing.Literal:
            yield from (type(value) for value in arguments)
        elif arguments:
            for argument in arguments:
                yield from flat(argument)
        else:
            yield hint

    return {name: frozenset(flat(hints[name])) for name in event_type.__struct_fields__}


def brief(event: Event) -> str:
    """What an event says, in a few words for a caption."""
    if isinstance(event, Quote):
        return f"{_px(event.bid_px)} × {_px(event.ask_px)}"
    if isinstance(event, Decision):
        if event.action in ("quote", "hold", "retract"):
            return f"{_px(event.bid_px)} × {_px(event.ask_px)}"
        return event.reason
    if isinstance(event, Refusal):
        return f"{event.by} {event.reason}"
    if isinstance(event, Residual):
        return f"{event.residual * 1e4:+.2f} bps"
    if isinstance(event, Anchor):
        return f"{event.price:g}"
    if isinstance(event, Trade | OwnFill):
        side = event.side if isinstance(event.side, str) else SIDE_NAMES.get(event.side, "")
        return f"{side} {format_units(event.qty)} @ {_px(event.px)}".strip()
    if isinstance(event, OrderRow):
        return f"{event.side} {format_units(event.qty)} @ {_px(event.px)}"
    if isinstance(event, OrderUpdate):
        return f"{event.n} {event.state}"
    if isinstance(event, Status):
        return f"{event.source} {event.kind}"
    return event.kind if event.n is None else f"{event.kind} {event.n}"


def _px(units: int | None) -> str:
    return "–" if units is None else format_units(units)
