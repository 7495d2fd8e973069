"""The command ``sweep``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from marblemaker.console import DONE, FAILED, INTERRUPTED, Console
from marblemaker.settings import SettingsError, read_document

if TYPE_CHECKING:
    import polars as pl

    from marblemaker.sweep import Swept

__all__ = ["add_sweep_commands"]

_SHOWN: Final = 3


def add_sweep_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line; ``command`` makes one."""
    sweep = command(
        commands, "sweep", _sweep, "replay recordings under many settings, into one table"
    )
    sweep.add_argument(
        "recording", type=Path, nargs="*", metavar="RECORDING",
        help="each is replayed under each combination; with --page alone: a sweep's table",
    )  # fmt: skip
    sweep.add_argument(
        "--grid", action="append", default=[], metavar="A.B=VALUES",
        help="start:stop:step (stop included) or a,b,c; several: every combination. With --random "
        "also start:stop and log:start:stop",
    )  # fmt: skip
    sweep.add_argument("--random", type=int, metavar="N", help="draw N combinations instead of all")
    sweep.add_argument("--seed", type=int, metavar="S", help="of --random (default: 0)")
    sweep.add_argument(
        "--plan", type=Path, metavar="FILE", help="recordings and grid in a file, TOML"
    )
    sweep.add_argument("--config", type=Path, metavar="FILE", help="settings of all, TOML")
    sweep.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="one setting over the file"
    )
    sweep.add_argument(
        "--out", type=Path, metavar="DIR|FILE",
        help="a folder, or the table's file FILE.parquet (default: runs/sweep-NAME); what is done "
        "there already is not computed again",
    )  # fmt: skip
    sweep.add_argument("--overwrite", action="store_true", help="forget what is there")
    sweep.add_argument(
        "--jobs", type=int, metavar="N", help="processes on this machine (default: one a core)"
    )
    sweep.add_argument(
        "--cluster", metavar="ADDRESS", help="compute on this Dask cluster, tcp://HOST:PORT"
    )
    sweep.add_argument(
        "--engine", choices=("rx", "compiled"), default="compiled",
        help="compiled: one compiled loop (default); rx: the reactive graph; the same rows",
    )  # fmt: skip
    sweep.add_argument(
        "--fallback",
        action="store_true",
        help="use rx for the settings that the compiled engine does not do",
    )
    sweep.add_argument(
        "--yes", action="store_true", help="also if there are more than 10,000 combinations"
    )
    sweep.add_argument(
        "--page", type=Path, metavar="FILE",
        help="where the page goes (default: beside the table)",
    )  # fmt: skip


def _sweep(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.sweep.run import SweepInterrupted, sweep
    from marblemaker.sweep.work import SweepError

    if _is_page_alone(arguments):
        return _page(arguments, console)
    recordings, settings = _asked(arguments)
    config = read_document(arguments.config) if arguments.config is not None else None
    out: Path | None = arguments.out
    if out is None:
        name = recordings[0].resolve().name if recordings else "sweep"
        out = Path("runs") / f"sweep-{name}"
    try:
        with console.progress("sweep", "replays") as progress:
            swept = sweep(
                recordings, settings, out,
                config=config, overrides=arguments.set, engine=arguments.engine,
                fallback=arguments.fallback, jobs=arguments.jobs, cluster=arguments.cluster,
                yes=arguments.yes, overwrite=arguments.overwrite, page=arguments.page or True,
                progress=progress, note=console.note,
            )  # fmt: skip
    except SweepError as error:
        return console.error(str(error), FAILED)
    except SweepInterrupted as error:
        return console.error(str(error), INTERRUPTED)
    console.result(_document(swept), _lines(swept))
    return DONE if swept.failed < swept.rows else FAILED


def _asked(
    arguments: argparse.Namespace,
) -> tuple[list[Path], Iterable[Mapping[str, Any]]]:
    from marblemaker.sweep.grid import Grid, RandomSearch, axes_of
    from marblemaker.sweep.plan import read_plan_file

    recordings: list[Path] = arguments.recording
    if arguments.plan is not None:
        if arguments.grid or arguments.random is not None or arguments.seed is not None:
            raise SettingsError(
                "--plan holds the grid, random and seed; leave --grid, --random and --seed out"
            )
        planned, settings = read_plan_file(arguments.plan)
        if recordings and planned:
            raise SettingsError(
                f"recordings are named on the command line and in {arguments.plan}; leave out one"
            )
        return recordings or planned, settings
    if arguments.seed is not None and arguments.random is None:
        raise SettingsError("--seed is of --random N; a grid has nothing to draw")
    pairs = []
    for text in arguments.grid:
        name, equals, values = text.partition("=")
        if not equals:
            raise SettingsError(f"--grid takes section.key=values, was {text!r}")
        pairs.append((name.strip(), values))
    drawn = arguments.random is not None
    axes = axes_of(pairs, drawn=drawn)
    if not drawn:
        return recordings, Grid(axes)
    if arguments.random < 1:
        raise SettingsError(f"--random must be at least 1, was {arguments.random}")
    return recordings, RandomSearch(axes, arguments.random, arguments.seed or 0)


def _is_page_alone(arguments: argparse.Namespace) -> bool:
    asked = arguments.grid or arguments.plan is not None or arguments.random is not None
    return arguments.page is not None and not asked


def _page(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.sweep.page import write_page
    from marblemaker.sweep.store import table_path

    if len(arguments.recording) != 1:
        raise SettingsError("--page FILE without a grid shows one table: name it")
    (given,) = arguments.recording
    written = write_page(given if given.is_file() else table_path(given), arguments.page)
    console.result(written, [f"{written['page']}  {written['bytes'] / 1e6:.1f} MB"])
    return DONE


# ---------------------------------------------------------------- what is told


def _document(swept: Swept) -> dict[str, Any]:
    best, worst = _ends(swept)
    return {
        "table": str(swept.table),
        "page": None if swept.page is None else str(swept.page),
        "rows": swept.rows,
        "computed": swept.computed,
        "kept": swept.kept,
        "failed": swept.failed,
        "seconds": swept.seconds,
        "best": best.to_dicts(),
        "worst": worst.to_dicts(),
    }


def _ends(swept: Swept) -> tuple[pl.DataFrame, pl.DataFrame]:
    from marblemaker.sweep.page import best_and_worst

    names = ["combination", "recording", *swept.swept, "pnl", "pnl_pessimistic"]
    names += ["pnl_optimistic", "fills", "digest"]
    best, worst = best_and_worst(swept.frame.select(*names, "error"), _SHOWN)
    return best.drop("error"), worst.drop("error")


def _lines(swept: Swept) -> list[str]:
    lines = [
        f"SWEEP  {swept.rows:,} rows: {swept.computed:,} replays computed, {swept.kept:,} known "
        f"already, {swept.failed:,} failed; {swept.seconds:.1f} s"
    ]
    for title, rows in zip(("best", "worst"), _ends(swept), strict=True):
        if rows.height:
            lines.append(f"  {title} by P&L")
        for row in rows.iter_rows(named=True):
            told = ", ".join(f"{name} {row[name]}" for name in swept.swept)
            lines.append(
                f"    {row['pnl']:>14,.6f}  ({row['pnl_pessimistic']:,.6f} to "
                f"{row['pnl_optimistic']:,.6f})  {row['fills']:>6,} fills  "
                f"#{row['combination']} {row['recording']}: {told}"
            )
    lines.append("  fills and P&L are of the fill model, not a promise")
    if swept.failed:
        failed = swept.frame.filter(swept.frame["error"].is_not_null())
        for error, n in failed["error"].value_counts(sort=True).head(_SHOWN).iter_rows():
            lines.append(f"    {n:>9,}  failed: {error}")
    lines.append(f"  table      {swept.table}")
    if swept.page is not None:
        lines.append(f"  page       {swept.page}")
    return lines
