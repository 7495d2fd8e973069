"""The command ``report``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marblemaker.console import DONE, WRONG_USE, Console

__all__ = ["add_report_commands"]


def add_report_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line; ``command`` makes one."""
    report = command(commands, "report", _report, "show a run in one HTML file that works offline")
    report.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a recording")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="the HTML file (default: RUN/report.html)"
    )
    report.add_argument(
        "--png", type=Path, metavar="DIR",
        help="also draw the four panels as pictures (needs the extra png)",
    )  # fmt: skip
    report.add_argument(
        "--overwrite", action="store_true", help="replace a report that is there already"
    )


def _report(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.report import PicturesError, write_report

    out: Path = arguments.out if arguments.out is not None else arguments.run / "report.html"
    try:
        written = write_report(
            arguments.run, out, png=arguments.png, overwrite=arguments.overwrite
        )  # fmt: skip
    except PicturesError as error:
        return console.error(str(error), WRONG_USE)
    lines = [f"{written['mode'].upper()}  {written['report']}  {written['bytes'] / 1e6:.1f} MB"]
    for what, name in (("changes", "changes of our quotes"), ("fills", "fills")):
        shown = written[what]
        if shown["shown"] < shown["of"]:
            lines.append(f"  shown      {shown['shown']:,} of {shown['of']:,} {name}")
    lines += [f"  picture    {path}" for path in written["pictures"]]
    console.result(written, lines)
    return DONE
