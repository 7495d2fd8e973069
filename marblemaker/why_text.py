"""An explanation as one screen of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from streams.instant import iso
from streams.instrument import format_units

if TYPE_CHECKING:
    from marblemaker.why_flips import Flip
    from marblemaker.why_told import Explanation, FeedUse, OrderUse

__all__ = ["lines"]

WIDTH: Final = 100
_LABEL: Final = 11
_ORDERS: Final = 8
_COLOURS: Final = {"head": "1", "bad": "31", "good": "32", "label": "36"}


class _Page:
    """Lines with a label in front, wrapped."""

    def __init__(self, *, colour: bool) -> None:
        self.lines: list[str] = []
        self._colour = colour

    def paint(self, text: str, how: str) -> str:
        return f"\x1b[{_COLOURS[how]}m{text}\x1b[0m" if self._colour else text

    def put(self, label: str, text: str, how: str = "") -> None:
        """A line, and more behind it where it is too long."""
        wrapped = textwrap.wrap(
            text, WIDTH - _LABEL - 2, break_long_words=False, break_on_hyphens=False
        ) or [""]
        for i, one in enumerate(wrapped):
            front = label.ljust(_LABEL) if not i else " " * _LABEL
            front = self.paint(front, "label") if self._colour else front
            self.lines.append(f"  {front}{self.paint(one, how) if how else one}".rstrip())

    def raw(self, label: str, text: str) -> None:
        """A line as it is, however long: a formula is not broken."""
        front = label.ljust(_LABEL)
        self.lines.append(f"  {self.paint(front, 'label')}{text}")

    def joined(self, label: str, parts: Iterable[str]) -> None:
        """Parts with a dot between them."""
        self.put(label, " · ".join(part.replace(" ", "\u00a0") for part in parts))
        for i in range(len(self.lines)):
            self.lines[i] = self.lines[i].replace("\u00a0", " ")


def lines(e: Explanation, *, colour: bool = False) -> list[str]:
    """Tell a person why."""
    page = _Page(colour=colour)
    seq = "" if e.seq is None else f"seq {e.seq}  "
    head = f"WHY  {e.mode.upper()}  {e.signal} → {e.target}  {e.preset}   {seq}{e.at}"
    page.lines.append(page.paint(head, "head"))
    _outcome(page, e)
    for feed in e.feeds:
        page.put(feed.name, _feed(feed))
        if feed.refused:
            page.put("", f"refused: {feed.refused}", "bad")
    for i, formula in enumerate(e.formulas):
        page.raw("formulas" if not i else "", f"{formula.name} = {formula.text}")
    _guards(page, e)
    if e.requote is not None:
        page.put("requote", e.requote.text)
        for formula in e.requote.formulas:
            page.raw("", f"{formula.name} = {formula.text}")
    if e.throttle is not None:
        page.put("throttle", e.throttle.text)
    _orders(page, "in flight", e.working, "nothing of ours worked or was in flight")
    if e.decision is not None and e.decision["action"] in ("quote", "withdraw", "retract"):
        _orders(page, "sent", e.sent, "nothing: what worked already was what was wanted")
    _flips(page, e)
    if e.margins:
        page.joined(
            "in time",
            (f"{one.what} {format_units(one.margin_ns)} s later" for one in e.margins),
        )
    for i, note in enumerate(e.notes):
        page.put("notes" if not i else "", note)
    return page.lines


def _outcome(page: _Page, e: Explanation) -> None:
    row = e.decision
    if row is None:
        page.put("outcome", e.kind, "bad")
        for i, one in enumerate(e.silence):
            page.put("because" if not i else "", one)
    else:
        page.put("outcome", e.kind, "good" if row["action"] == "quote" else "bad")
        if row["qty"] is not None and row["anchor"] is not None:
            page.put("", _prices(row))
        elif row["refused_value"] is not None:
            limit = row["refused_limit"]
            against = "" if limit is None else f", against {limit!r}"
            page.put("", f"judged {row['refused_value']!r}{against}")
        for side in ("bid", "ask"):
            if row[f"{side}_note"]:
                page.put("", f"no {side}: {row[f'{side}_note']}" if row[f"{side}_px"] is None
                         else f"{side}: levels cut, {row[f'{side}_note']}")  # fmt: skip
    position = "" if e.position is None else f"; position {format_units(e.position)}"
    page.put("made by", f"{e.trigger}{position}{_last_fill(e)}")
    if e.checked is None:
        return
    if e.checked:
        page.put("checked", "evaluated anew from what the run holds: the same, bit for bit")
    else:
        page.put(
            "checked",
            "EVALUATED ANEW IT IS NOT WHAT WAS RECORDED: another version made this run, or it "
            "depends on what the run does not hold. No flips are told; `marble prove` tells more",
            "bad",
        )


def _last_fill(e: Explanation) -> str:
    fill = e.last_fill
    if fill is None or fill.filled is None or fill.ts_last is None:
        return ""
    ago = e.ts - fill.ts_last
    when = "this instant" if ago <= 0 else f"{ago / 1e9:g} s before"
    px = "" if fill.px is None else f" @ {format_units(fill.px)}"
    return f", last fill #{fill.n} {fill.side} {format_units(fill.filled)}{px} {when}"


def _prices(row: dict[str, object]) -> str:
    parts = []
    for side in ("bid", "ask"):
        px, levels = row[f"{side}_px"], row[f"{side}_levels"]
        if px is None:
            continue
        assert isinstance(px, int)
        text = f"{side} {format_units(px)}"
        if isinstance(levels, int) and levels > 1:
            step = row["level_step"]
            assert isinstance(step, int)
            text += f" ({levels} levels, {format_units(step)} apart)"
        parts.append(text)
    qty = row["qty"]
    assert isinstance(qty, int)
    return f"{', '.join(parts) or 'nothing'}; size {format_units(qty)}"


def _feed(feed: FeedUse) -> str:
    event = "unknown" if feed.ts_event is None else iso(feed.ts_event)[11:-1]
    book = " / ".join(
        "none" if px is None else format_units(px) for px in (feed.bid_px, feed.ask_px)
    )
    sizes = " × ".join("?" if sz is None else format_units(sz) for sz in (feed.bid_sz, feed.ask_sz))
    return (
        f"{book} ({sizes}) seq {feed.seq}, age {format_units(feed.age_ns)} s, made {event}"
        f"{' ◄' if feed.triggered else ''}"
    )


def _guards(page: _Page, e: Explanation) -> None:
    scopes = list(dict.fromkeys(v.scope for v in e.guards))
    first = True
    for scope in scopes:
        parts = []
        for v in e.guards:
            if v.scope == scope:
                mark = {True: "✓", False: "✗ STOPPED", None: "–"}[v.passed]
                if scope == "side":
                    mark = "✓" if v.passed else "–"
                parts.append(f"{mark} {v.guard} {v.text}")
        page.joined("guards" if first else "", (f"{scope}: {parts[0]}", *parts[1:]))
        first = False


def _orders(page: _Page, label: str, orders: list[OrderUse], nothing: str) -> None:
    if not orders:
        page.put(label, nothing)
        return
    texts = []
    for one in orders[:_ORDERS]:
        px = "market" if one.px is None else format_units(one.px)
        text = f"#{one.n} {one.side} {format_units(one.qty)} @ {px} {one.asked or one.state}"
        if one.status is not None:
            text += f" → {one.status}"
            if one.filled:
                text += f" (filled {format_units(one.filled)})"
        texts.append(text)
    if len(orders) > _ORDERS:
        texts.append(f"{len(orders) - _ORDERS} more")
    page.joined(label, texts)


def _flips(page: _Page, e: Explanation) -> None:
    if not e.flips:
        return
    page.put(
        "flips",
        "the nearest change that would have flipped it, all before as it was, this one other",
    )
    for name in dict.fromkeys(flip.input for flip in e.flips):
        own = [flip for flip in e.flips if flip.input == name]
        if all(flip.change is None and flip.note == own[0].note for flip in own):
            page.raw("", f"{name:<13} {own[0].note or 'no change of it alone flips anything'}")
            continue
        any_other = [_flip(flip) for flip in own if not flip.kind]
        kinds = [_flip(flip) for flip in own if flip.kind]
        rows = [("price", any_other), ("kind", kinds)]
        if any_other == kinds:
            rows = [("both", kinds)]
        label = name
        for what, parts in rows:
            front = f"{label:<13} {what:<5} "
            if len(front) + sum(map(len, parts)) + 2 + _LABEL + 2 <= WIDTH:
                parts = ["; ".join(parts)]
            for i, part in enumerate(parts):
                page.raw("", (front if not i else " " * len(front)) + part)
            label = ""


def _flip(flip: Flip) -> str:
    sign = "+" if flip.way > 0 else "−"
    if flip.change is None:
        return f"{sign}: {flip.note or 'no change of it alone'}"
    text = f"{sign}{format_units(abs(flip.change))} → "
    if flip.kind or (flip.bid_px is None and flip.ask_px is None):
        return text + flip.becomes
    prices = ("none" if px is None else format_units(px) for px in (flip.bid_px, flip.ask_px))
    return text + "/".join(prices)
