"""Set order: what checked code does with sets, names and ``is``, and who is told of it.

The functions here stand in the code that ``marblemaker.checked_code`` makes, as builtins.
"""

from __future__ import annotations

import builtins
import math
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from numbers import Number
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

from msgspec import Struct

from marblemaker.forbidden import (
    CLOCK,
    ENVIRONMENT,
    IDENTITY,
    ORDER,
    Forbidden,
    Reading,
)

__all__ = [
    "Watch",
    "depends_on_process",
    "seeded",
    "telling",
    "watching",
]

Report = Callable[[Reading], None]


class Watch(Struct):
    """Who is told what the checked code does, on which thread."""

    report: Report
    forbidden: Forbidden
    thread: int
    on_path: Callable[[str], bool]
    """Whether a source file is on the path: its code is checked itself."""


_watch: Watch | None = None


def watching(watch: Watch | None) -> None:
    """Tell ``watch`` from now on; nobody with ``None``."""
    global _watch
    _watch = watch
    for name, function in _HELPERS.items():
        # They stay: a generator that began under watch may end after it.
        setattr(builtins, name, function)


def _tell(kind: str, what: str) -> None:
    if _watch is not None and _watch.thread == threading.get_ident():
        _watch.report(Reading(kind, what))


# ---------------------------------------------------------------- what the checked code calls

_Set = (set, frozenset, weakref.WeakSet)
_EXACT: Final = frozenset({int, bool, complex, Fraction, Decimal, timedelta})


def depends_on_process(value: Any) -> bool:
    """Whether ``hash(value)`` may be another in another process.

    That of numbers is the same everywhere, that of what holds only numbers too. Strings, bytes and
    dates are hashed with a secret of the process, other objects by their address.
    """
    kind = type(value)
    if kind in _EXACT:
        return False
    if kind is float:
        return math.isnan(value)
    if value is None:
        return sys.version_info < (3, 12)  # before, its hash was its address
    hashed: Any = kind.__hash__
    if hashed in (int.__hash__, bool.__hash__) or isinstance(value, Number):
        return False
    if hashed in (tuple.__hash__, frozenset.__hash__):
        return any(depends_on_process(one) for one in value)
    if hashed is Struct.__hash__ and kind.__struct_config__.frozen:
        return any(depends_on_process(getattr(value, name)) for name in kind.__struct_fields__)
    made = isinstance(hashed, FunctionType) and hashed.__code__.co_filename.startswith("<")
    if made and hasattr(kind, "__dataclass_fields__"):
        hashable = (f for f in fields(kind) if (f.compare if f.hash is None else f.hash))
        return any(depends_on_process(getattr(value, f.name)) for f in hashable)
    return True


def _unordered(value: Any) -> bool:
    return (
        isinstance(value, _Set) and len(value) > 1 and any(depends_on_process(one) for one in value)
    )


def _name_of(value: Any) -> str:
    kinds = sorted({type(one).__name__ for one in value})
    return f"a {type(value).__name__} of {len(value)} ({', '.join(kinds)})"


def _ordered(value: Any) -> Any:
    if _unordered(value):
        _tell(ORDER, f"the order of {_name_of(value)}")
    return value


def _sum(add: Any, terms: Any, /, *start: Any, **named: Any) -> Any:
    """``sum`` over a comprehension: with whole numbers the order cannot show."""
    global _noted
    if _noted is None or add is not sum:
        return add(terms, *start, **named)
    noted, _noted = _noted, None
    terms = list(terms)
    if not all(isinstance(term, int) for term in terms):
        _tell(ORDER, f"the order of {noted} in a sum")
    return add(terms, *start, **named)


_noted: str | None = None


def _note(value: Any) -> Any:
    global _noted
    if _unordered(value):
        _noted = _name_of(value)
    return value


_ORDER_FREE: Final[tuple[Any, ...]] = (
    len, any, all, set, frozenset, isinstance, bool, min, max, sorted, math.fsum, type,
    weakref.WeakSet,
)  # fmt: skip
_BY_KEY: Final = (min, max, sorted)


def _call(function: Any, /, *args: Any, **named: Any) -> Any:
    """Call ``function``, whose name is that of one that may show the order of a set."""
    if _watch is None:
        return function(*args, **named)
    told = _told(function, args, named)
    if told is not None:
        _tell(told.kind, told.what)
    name = getattr(function, "__name__", "")
    if name == "pop" and _unordered(owner := getattr(function, "__self__", None)):
        _tell(ORDER, f"pop() from {_name_of(owner)}")
    for value in (*args, *named.values()):
        if not _unordered(value) or _is_checked(function) or _of_set(function):
            continue
        if function in _BY_KEY and named.get("key") is not None:
            if _has_ties(function, value, named["key"]):
                _tell(ORDER, f"the order of equals in {name}(key=...) of {_name_of(value)}")
        elif not any(function is free for free in _ORDER_FREE):
            _tell(ORDER, f"{name or 'a call'}() of {_name_of(value)}")
    if name == "RandomState" and (args or named) and (args or (named.get("seed"),))[0] is not None:
        return seeded(function, args, named)
    return function(*args, **named)


def _of_set(function: Any) -> bool:
    return isinstance(getattr(function, "__self__", None), _Set)


def _is_checked(function: Any) -> bool:
    assert _watch is not None
    if isinstance(function, type):
        file = getattr(sys.modules.get(function.__module__), "__file__", None)
        return file is not None and _watch.on_path(file)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and _watch.on_path(code.co_filename)


def _has_ties(function: Any, value: Any, key: Any) -> bool:
    keys = sorted(key(one) for one in value)
    if function is sorted:
        return any(a == b for a, b in pairwise(keys))
    return bool(keys[0] == keys[1] if function is min else keys[-1] == keys[-2])


def _told(function: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Reading | None:
    assert _watch is not None
    name = getattr(function, "__name__", "")
    if isinstance(function, type) or function is weakref.proxy:
        return _watch.forbidden.types.get(function)
    if not isinstance(function, BuiltinFunctionType):
        return None
    module = getattr(function, "__module__", None)
    if module == "time" and name in ("gmtime", "localtime", "ctime", "asctime", "strftime"):
        takes = 1 if name == "strftime" else 0
        if len(args) <= takes or args[takes] is None:
            return Reading(CLOCK, f"time.{name}() without an argument")
    own = getattr(function, "__self__", None)
    if (
        (module == "time" and name in ("localtime", "ctime", "mktime"))
        or (name == "fromtimestamp" and len(args) < 2 and named.get("tz") is None)
        or (name == "astimezone" and (not args or getattr(own, "tzinfo", own) is None))
    ):
        return Reading(ENVIRONMENT, f"{name}() in the time zone of this machine")
    return None


def seeded(function: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """Call numpy's RandomState: it draws from the system and then takes the seed it was given."""
    return function(*args, **named)


def _named(value: Any) -> Any:
    """What is handed on: by C code it is called where no profiler looks."""
    if _watch is None:
        return value
    if value is builtins.id:
        return _checked_id
    if value is builtins.hash:
        return _checked_hash
    if isinstance(value, BuiltinFunctionType):
        told = _watch.forbidden.builtins.get(value)
        if told is not None:
            return telling(value, told)
    elif (told := _watch.forbidden.objects.get(id(value))) is not None:
        _tell(told.kind, told.what)
    return value


def telling(function: Callable[..., Any], told: Reading) -> Callable[..., Any]:
    """The same function, telling of each call."""

    def tells(*args: Any, **named: Any) -> Any:
        _tell(told.kind, told.what)
        return function(*args, **named)

    return tells


def _checked_id(value: Any, /) -> int:
    _tell(IDENTITY, "id()")
    return id(value)


def _checked_hash(value: Any, /) -> int:
    if depends_on_process(value):
        _tell(IDENTITY, f"hash() of a {type(value).__name__}")
    return hash(value)


def _same(left: Any, right: Any) -> bool:
    """``is``: whether equal values are one object is a matter of caches and batches."""
    kind = type(left)
    if left is not right and kind is type(right) and kind in _VALUES and left == right:
        _tell(IDENTITY, f"`is` between equal values of type {kind.__name__}")
    return left is right


_VALUES: Final = frozenset({str, bytes, int, float, complex, tuple, frozenset})

_HELPERS: Final[dict[str, Any]] = {
    "__marble_ordered__": _ordered,
    "__marble_call__": _call,
    "__marble_named__": _named,
    "__marble_same__": _same,
    "__marble_note__": _note,
    "__marble_sum__": _sum,
}
