"""Silence: why there was no (new) quote at an instant, or from an input."""

from __future__ import annotations

from marblemaker.why_ask import Found
from marblemaker.why_orders import Moment
from marblemaker.why_run import RunFolder
from marblemaker.why_situation import Evaluator, Outcome, Situation
from marblemaker.why_told import Explanation
from streams.instant import iso
from streams.instrument import format_units

__all__ = ["reasons_of"]


def reasons_of(
    run: RunFolder, found: Found, at: Moment, s: Situation, outcome: Outcome,
    evaluator: Evaluator, e: Explanation,
) -> list[str]:  # fmt: skip
    """Why there was nothing new, in sentences; the most telling first."""
    row, told = e.in_force, list[str]()
    if found.ts > at.ts:
        ago = (found.ts - at.ts) / 1e9
        told.append(f"the latest quote is seq {at.seq} of {at.trigger}, {ago:.9g} s before")
    if outcome.rows and outcome.rows[0].action == "quote":
        told.append(f"there was a quote: ask `why` about seq {at.seq}")
    if row is None:
        told.append("nothing had been decided yet: no state had both feeds in it")
        return told
    if row["action"] in ("withdraw", "refuse") and row["anchor"] is None:
        judged = ""
        if row["refused_value"] is not None:
            judged = f": judged {row['refused_value']!r}"
            if row["refused_limit"] is not None:
                judged += f" against {row['refused_limit']!r}"
        if row["refused_bid_px"] is not None or row["refused_ask_px"] is not None:
            judged += f", book {_px(row['refused_bid_px'])} / {_px(row['refused_ask_px'])}"
        told.append(f"refused since {iso(row['ts'])} (seq {row['seq']}): {row['reason']}{judged}")
        if row["action"] == "refuse":
            told[-1] += "; what works was left alone"
        for word, what in (
            ("session closed", "the session of the signal's market was closed"),
            ("kill switch", "the operator's kill switch was on"),
            ("signal missing", "the signal had not been heard"),
            ("target missing", "the target had not been heard, or lacked a side"),
        ):
            if row["reason"].startswith(word):
                told.append(what)
    elif row["action"] == "withdraw":
        told.append(f"both sides left out since {iso(row['ts'])}: {row['reason']}")
    if s.held is not None or row["action"] == "hold":
        due = evaluator.due_ns
        until = iso(due) if s.budget_due is None or s.budget_due <= s.now else "the budget has room"
        told.append(f"a target was held by the throttle, until {until}")
    if outcome.kind.endswith("below the threshold") and e.requote is not None:
        told.append(e.requote.text)
    if outcome.kind.endswith("the same target as before"):
        told.append("the prices that came out were those that were wanted already")
    if outcome.kind.endswith("a signal does not trigger"):
        told.append("in the tutorial preset only a target quote triggers; the signal was noted")
    for side in ("bid", "ask"):
        if row["action"] in ("quote", "hold", "retract") and row[f"{side}_note"]:
            told.append(f"no {side} since {iso(row['ts'])}: {row[f'{side}_note']}")
    if row["action"] == "quote":
        told.append(f"the quote of {iso(row['ts'])} (seq {row['seq']}) was in force")
    return told


def _px(px: int | None) -> str:
    return "none" if px is None else format_units(px)
