"""Grids: which values of which settings are tried, and in what order."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from msgspec import Struct

from marblemaker.settings import (
    DECIMAL_STRINGS,
    SettingsError,
    check_keys,
    parse_value,
    settings_of,
)

__all__ = ["Axis", "Grid", "RandomSearch", "axes_of", "grid", "random_search", "typed"]

_MOST_VALUES: Final = 1_000_000
_DIGITS: Final = 6
"""Digits of a number that is drawn: its text is exact, and the same on every machine."""


class Axis(Struct, frozen=True, kw_only=True):
    """What one setting may be: one of ``values``, or anything between ``low`` and ``high``."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Drawn so that each factor is as likely as any other, not each difference."""
    whole: bool = False

    def draw(self, source: random.Random) -> Any:
        """One value; takes one number from ``source``, whatever the axis."""
        share = source.random()
        if self.values:
            return self.values[int(share * len(self.values))]
        # A whole number stands for the half around it, so that both ends are as likely as others.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            low = max(low, self.low / 2)
            drawn = low * (high / low) ** share
        else:
            drawn = low + (high - low) * share
        if self.whole:
            return int(min(max(math.floor(drawn + 0.5), self.low), self.high))
        text = f"{drawn:.{_DIGITS}g}"
        return text if self.name in DECIMAL_STRINGS else float(text)


class Grid(Struct, frozen=True):
    """Every value of each axis with every value of all others; the last axis turns fastest."""

    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        return math.prod(len(axis.values) for axis in self.axes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield dict(zip(names, values, strict=True))


class RandomSearch(Struct, frozen=True):
    """``n`` combinations drawn with ``seed``: the same on every machine, the first k of any n."""

    axes: tuple[Axis, ...]
    n: int
    seed: int

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[dict[str, Any]]:
        source = random.Random(self.seed)
        for _ in range(self.n):
            yield {axis.name: axis.draw(source) for axis in self.axes}


def grid(axes: Mapping[str, Any]) -> Grid:
    """All combinations of ``{"strategy.half_spread_bps": [10, 15], "strategy.x": "20:80:5"}``.

    Errors: SettingsError naming the key and what is wrong with its values.
    """
    return Grid(axes_of(axes.items()))


def random_search(axes: Mapping[str, Any], n: int, seed: int = 0) -> RandomSearch:
    """``n`` combinations, drawn; an axis may also be ``"low:high"`` or ``"log:low:high"``.

    Errors: SettingsError naming the key and what is wrong with its values.
    """
    if n < 1:
        raise SettingsError(f"a random search needs at least 1 combination, was {n}")
    return RandomSearch(axes_of(axes.items(), drawn=True), n, seed)


def axes_of(
    pairs: Any, *, drawn: bool = False, where: str = "--grid"
) -> tuple[Axis, ...]:  # pairs: Iterable[tuple[str, Any]]
    """Read axes from pairs of a key and its values, a text or a list; each key once.

    Errors: SettingsError beginning with ``where``.
    """
    axes: dict[str, Axis] = {}
    for name, values in pairs:
        section, dot, key = name.partition(".")
        if not (dot and section and key):
            raise SettingsError(f"{where} takes section.key=values, was {name!r}")
        check_keys({section: {key: None}}, where)
        if name in axes:
            raise SettingsError(
                f"{where}: {name} is given twice; put all its values in one: {name}=a,b,c"
            )
        axes[name] = _axis(name, values, where, drawn=drawn)
    if not axes:
        raise SettingsError(
            f"nothing to sweep: name at least one setting, {where} "
            f"strategy.half_spread_bps=10,15,25"
        )
    return tuple(axes.values())


def typed(name: str, value: Any, where: str = "--grid") -> Any:
    """The value as the settings hold it: a number for ``10``, None for ``off`` where that is one.

    Errors: SettingsError if it is of the wrong kind.
    """
    section, _, key = name.partition(".")
    try:
        settings = settings_of({section: {key: value}})
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}, was {value!r}") from None
    return getattr(getattr(settings, section), key)


# ---------------------------------------------------------------- one axis


def _axis(name: str, values: Any, where: str, *, drawn: bool) -> Axis:
    if isinstance(values, str):
        axis = _between(name, values, where) if drawn else None
        if axis is not None:
            for end in (axis.low, axis.high):
                typed(name, str(end) if name in DECIMAL_STRINGS else _narrow(end), where)
            return axis
        found = _listed(name, values, where)
    elif isinstance(values, Sequence):
        found = list(values)
    else:
        found = [values]
    if not found:
        raise SettingsError(f"{where}: {name} has no values; give a range or a list: a,b,c")
    seen: dict[str, Any] = {}
    for value in found:
        kind = repr(typed(name, value, where))
        if kind in seen:
            raise SettingsError(
                f"{where}: {name} has the value {value!r} twice; leave one of them out"
            )
        seen[kind] = value
    return Axis(name=name, values=tuple(found))


def _listed(name: str, text: str, where: str) -> list[Any]:
    parts = _ranged(text)
    if parts is None:
        items = _split(text)
        if any(not item.strip() for item in items):
            what = "has no values" if not text.strip() else f"has an empty value in {text!r}"
            raise SettingsError(f"{where}: {name} {what}; give a range or a list: a,b,c")
        return [parse_value(name, item) for item in items]
    if len(parts) != 3:
        raise SettingsError(
            f"{where}: {name}={text} is no range; a range is start:stop:step (20:80:5), and with "
            f"--random also start:stop or log:start:stop"
        )
    numbers = [_decimal(part) for part in parts]
    if any(number is None for number in numbers):
        raise SettingsError(
            f"{where}: {name}={text} is no range: start, stop and step must be decimal numbers"
        )
    start, stop, step = (number for number in numbers if number is not None)
    if step == 0:
        raise SettingsError(f"{where}: {name}={text} has a step of 0; give one towards {stop}")
    if (stop - start) / step < 0:
        raise SettingsError(
            f"{where}: {name}={text} is an empty range: from {start} in steps of {step} it never "
            f"comes to {stop}"
        )
    count = int((stop - start) / step) + 1
    if count > _MOST_VALUES:
        raise SettingsError(
            f"{where}: {name}={text} is {count:,} values; at most {_MOST_VALUES:,}: raise the step"
        )
    # Decimal all the way: 0.1:0.3:0.1 ends with 0.3 and not with 0.30000000000000004.
    return [parse_value(name, _plain(start + i * step)) for i in range(count)]


def _between(name: str, text: str, where: str) -> Axis | None:
    """An axis for ``low:high`` and ``log:low:high``; None for what is no such text."""
    log = text.strip().startswith("log:")
    parts = _ranged(text.strip().removeprefix("log:"))
    if parts is None or (len(parts) == 3 and not log):
        if log:
            raise SettingsError(f"{where}: {name}={text} must be log:low:high with two numbers")
        return None
    low, high = (_decimal(part) for part in parts) if len(parts) == 2 else (None, None)
    if low is None or high is None:
        raise SettingsError(
            f"{where}: {name}={text} is no range to draw from; give low:high or log:low:high"
        )
    if not low < high:
        raise SettingsError(f"{where}: {name}={text} is an empty range: {low} is not below {high}")
    if log and low <= 0:
        raise SettingsError(f"{where}: {name}={text}: a log range begins above 0, was {low}")
    whole = name not in DECIMAL_STRINGS and _is_whole(name, where)
    return Axis(name=name, low=float(low), high=float(high), log=log, whole=whole)


def _is_whole(name: str, where: str) -> bool:
    try:
        typed(name, 1.5, where)
    except SettingsError:
        return True
    return False


def _plain(number: Decimal) -> str:
    """All its digits and no zeros behind: whole numbers are written so."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _narrow(number: float) -> Any:
    return int(number) if number.is_integer() else number


def _ranged(text: str) -> list[str] | None:
    """The parts of what is meant as a range: it has colons and begins with a number."""
    parts = [part.strip() for part in text.split(":")]
    return parts if len(parts) > 1 and (_decimal(parts[0]) is not None or not parts[0]) else None


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _split(text: str) -> list[str]:
    """Cut at commas, but not within brackets or quotes."""
    items, depth, quote, start = [], 0, "", 0
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and not depth:
            items.append(text[start:i])
            start = i + 1
    return [*items, text[start:]]
