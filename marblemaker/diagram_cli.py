"""The command ``marble``: a window of a run as a marble diagram."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marblemaker.console import DONE, WRONG_USE, Console

__all__ = ["add_diagram_commands"]


def add_diagram_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add it to the command line; ``command`` makes one."""
    marble = command(commands, "marble", _marble, "draw a window of a run as a marble diagram")
    marble.add_argument("run", type=Path, metavar="RUN", help="a run or recording")
    marble.add_argument(
        "t0", metavar="T0",
        help="its begin: 2026-06-17T14:31:07.123456789Z, 14:31:07.123Z (UTC), 10:31:07.123 (local "
        "to the signal's market), or the seq of an input",
    )  # fmt: skip
    marble.add_argument("t1", metavar="T1", help="its end, likewise, or a span such as +50ms")
    marble.add_argument(
        "--step", metavar="SPAN", help="what a column spans (default: the finest that fits 120)"
    )
    marble.add_argument(
        "--lanes", metavar="A,B", help="which lanes (default: all but wanted and updates)"
    )
    marble.add_argument("--svg", type=Path, metavar="FILE", help="draw it to this file as well")


def _marble(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.diagram import DiagramError
    from marblemaker.when import WhenError
    from marblemaker.window import window

    lanes = None
    if arguments.lanes is not None:
        lanes = [lane.strip() for lane in arguments.lanes.split(",") if lane.strip()]
    try:
        diagram = window(
            arguments.run, arguments.t0, arguments.t1, step=arguments.step, lanes=lanes
        )
    except (DiagramError, WhenError) as error:
        return console.error(str(error), WRONG_USE)
    if arguments.svg is not None:
        arguments.svg.parent.mkdir(parents=True, exist_ok=True)
        arguments.svg.write_text(diagram.svg(), encoding="utf-8")
        console.note(f"drawn to {arguments.svg}")
    console.result(diagram.document(), diagram.text().splitlines())
    return DONE
