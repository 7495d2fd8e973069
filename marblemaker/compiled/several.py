"""Several signals: the rule of ``operators.weighted``, and what each tells of the others' age."""

from __future__ import annotations

from typing import Any

from marblemaker.compiled import steps
from marblemaker.compiled.feed import refusal_words
from marblemaker.compiled.layout import FEED_LINES, OTHERS, SIGNAL, WEIGHTED, World
from marblemaker.compiled.machine import compiled

__all__ = ["signal_at", "tell_other", "weigh"]


@compiled
def signal_at(k: int) -> int:
    """Which feed a signal is, by its index."""
    return OTHERS + k - 1 if k else SIGNAL


@compiled
def weigh(w: World) -> bool:
    """Combine the latest of all signals; tell whether every one has spoken."""
    count = w.parameters[0].others + 1
    seq = ts = 0
    refused = -1
    for k in range(count):
        f = w.feeds[signal_at(k)]
        if not f.has_spoken:
            return False
        v = w.values[f.latest]
        seq, ts = max(seq, v.seq), max(ts, v.ts)
        if not v.is_refusal:
            w.residuals[k] = v.residual
        elif refused < 0:
            refused = f.latest
    together = w.values[WEIGHTED]
    if refused >= 0:
        w.values[WEIGHTED] = w.values[refused]
    else:
        first = w.values[w.feeds[SIGNAL].latest]
        together.is_refusal, together.seq, together.ts = 0, seq, ts
        together.mid, together.level = first.mid, first.level
        together.residual = steps.weighted_sum(w.residuals[:count], w.weights[:count])
    tell_other(w, len(w.ahead), together)
    return True


@compiled
def tell_other(w: World, k: int, v: Any) -> None:
    """Write down what a further signal hands on, or last what all of them make together."""
    p, row = w.parameters[0], w.other_rows[k]
    if not p.traced:
        return
    out, doubles = w.others_out[k], w.others_out_doubles[k]
    if v.is_refusal:
        refusal_words(w, v, out, doubles, 0, row)
        w.others_out_widths[k, row] = FEED_LINES
    else:
        out[0, row], out[1, row] = v.seq, v.ts
        doubles[2, row], doubles[3, row], doubles[4, row] = v.mid, v.level, v.residual
        w.others_out_widths[k, row] = 5
    w.other_rows[k] = row + 1
    if row + 1 >= p.most_rows:
        w.state[0].full = 1
