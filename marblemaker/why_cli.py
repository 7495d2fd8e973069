"""``marble why``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marblemaker.console import DONE, WRONG_USE, Console

__all__ = ["add_why_commands"]


def add_why_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line; ``command`` makes one."""
    why = command(commands, "why", _why, "why this quote, or why none, at a moment of a run")
    why.usage = "marble why RUN (WHEN | ORDER | --last | --where EXPR [--nth N]) [--not] [--json]"
    why.add_argument(
        "words",
        nargs="*",
        metavar="RUN WHEN|ORDER",
        help='the run folder; then a time ("2026-06-17T14:31:07.123456789Z", "14:31:07.1Z" UTC, '
        '"10:31:07.1" local to the signal\'s market), an input ("seq 81234" or 81234), or an order '
        '("order 17", "#17")',
    )
    why.add_argument("--last", action="store_true", help="the last decision")
    why.add_argument(
        "--where",
        metavar="EXPR",
        help="the first decision for which an SQL expression holds, such as "
        "\"action = 'withdraw' and position > 0\"",
    )
    why.add_argument("--nth", type=int, default=1, metavar="N", help="of --where the N-th, from 1")
    why.add_argument(
        "--not",
        dest="absent",
        nargs="*",
        metavar="WHEN",
        help="why there was no (new) quote then",
    )


def _why(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.when import WhenError
    from marblemaker.why import WhyError, explain

    # What stands behind --not is its own to the parser, wherever --not stands.
    words = [*arguments.words, *(arguments.absent or [])]
    if not words:
        return console.error("why needs a run: marble why RUN WHEN", WRONG_USE)
    question = " ".join(words[1:]) or None
    try:
        explanation = explain(
            Path(words[0]),
            question,
            last=arguments.last,
            where=arguments.where,
            nth=arguments.nth,
            absent=arguments.absent is not None,
        )
    except (WhyError, WhenError) as error:
        return console.error(str(error), WRONG_USE)
    lines = explanation.lines(colour=sys.stdout.isatty()) if not console.as_json else []
    console.result(explanation.json() if console.as_json else None, lines)
    return DONE
