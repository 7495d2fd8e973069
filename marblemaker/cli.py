"""The ``marble`` command."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marblemaker import __version__
from marblemaker.bundled import BUNDLED
from marblemaker.console import DONE, FAILED, INTERRUPTED, WRONG_USE, Console, summary_lines
from marblemaker.diagram_cli import add_diagram_commands
from marblemaker.live_cli import add_live_commands
from marblemaker.prove_cli import add_prove_commands
from marblemaker.report_cli import add_report_commands
from marblemaker.settings import (
    Settings,
    SettingsError,
    instruments_of,
    load_settings,
    read_document,
    with_overrides,
)
from marblemaker.sweep_cli import add_sweep_commands
from marblemaker.why_cli import add_why_commands
from streams.events import OutOfOrderError
from streams.instant import iso
from streams.instrument import Instrument
from streams.recording import SIGNALS, RecordingError, read_manifest

__all__ = ["main", "parser"]


_QUOTED = (*SIGNALS, "target")

_SECRETS = (
    "DATABENTO_API_KEY",
    "LIGHTER_ACCOUNT_INDEX",
    "LIGHTER_API_KEY_INDEX",
    "LIGHTER_API_SECRET",
    "LIGHTER_TESTNET_ACCOUNT_INDEX",
    "LIGHTER_TESTNET_API_KEY_INDEX",
    "LIGHTER_TESTNET_API_SECRET",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, see ``marblemaker.console``."""
    arguments_parser = parser()
    arguments = arguments_parser.parse_args(argv)
    console = Console(as_json=arguments.json)
    command: Callable[[argparse.Namespace, Console], int] = arguments.command
    try:
        with _terminable():
            return command(arguments, console)
    except SettingsError as error:
        return console.error(str(error), WRONG_USE)
    except (RecordingError, OutOfOrderError, _Failure) as error:
        return console.error(str(error), FAILED)
    except BrokenPipeError:
        # The reader of our output has left; the work is done, and there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return console.error(f"{what}{error.strerror or error}", FAILED)
    except KeyboardInterrupt:
        return console.error("interrupted; nothing half-written was left", INTERRUPTED)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a SIGTERM end a command as an interrupt does: cleaned up, with exit code 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Failure(RuntimeError):
    """A command could not do what it was asked."""


def parser() -> argparse.ArgumentParser:
    """The command line, with all commands."""
    whole = argparse.ArgumentParser(
        prog="marble",
        description="Reactive market making: reference quotes in, post-only orders out.",
        epilog="Exit codes: 0 done, 1 diverged or failed, 2 wrong use or not provable, "
        "130 interrupted.",
    )
    whole.add_argument("--version", action="version", version=f"marblemaker {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "replay the bundled recording")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    _settings_options(demo)

    replay = _command(commands, "replay", _replay, "run a recording through the graph")
    replay.add_argument(
        "recording",
        type=Path,
        nargs="+",
        metavar="RECORDING",
        help="several run as one session that shares an account, each with its own graph",
    )
    _settings_options(replay)
    replay.add_argument(
        "--engine",
        choices=("rx", "compiled"),
        default="rx",
        help="rx: the reactive graph; compiled: the same decisions from one compiled loop",
    )
    replay.add_argument(
        "--fallback",
        action="store_true",
        help="with --engine compiled: use rx for what the compiled engine does not do",
    )
    replay.add_argument(
        "--venue",
        choices=("recorded", "simulated"),
        help="whose answers orders get (default: recorded if the recording has any)",
    )
    replay.add_argument(
        "--fills",
        choices=("bounds",),
        help="bounds: tell what the same orders would have filled under every fill model",
    )
    replay.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME)")
    replay.add_argument(
        "--overwrite", action="store_true", help="replace an earlier replay that is there"
    )
    replay.add_argument(
        "--strict",
        action="store_true",
        help="refuse whatever reads a clock, random numbers, the environment … for a decision",
    )
    replay.add_argument(
        "--no-trace",
        dest="trace",
        action="store_false",
        help="keep no outputs and digests of operators: such a run cannot be proven or compared",
    )

    _import_commands(commands)
    add_live_commands(commands, _command)
    add_prove_commands(commands, _command)
    add_why_commands(commands, _command)
    add_report_commands(commands, _command)
    add_sweep_commands(commands, _command)
    add_diagram_commands(commands, _command)

    kill = _command(commands, "kill", _kill, "take all quotes away until --release")
    kill.add_argument(
        "file", type=Path, nargs="?", metavar="FILE",
        help="the kill file (default: risk.kill_file of the settings)",
    )  # fmt: skip
    kill.add_argument("--reason", default="operator", help="told with every withdrawal")
    kill.add_argument("--release", action="store_true", help="remove the file: quote again")
    _settings_options(kill)

    bench = _command(
        commands, "bench", _bench, "measure replay speed, or the latency of the live pipeline"
    )
    bench.add_argument(
        "what",
        nargs="?",
        choices=("replay", "live"),
        default="replay",
        help="replay: our engines and others side by side on a generated session (default); live: "
        "from the socket to the decision and from there to the wire, against stand-ins of the "
        "venues",
    )
    bench.add_argument("--quotes", type=int, default=2_000_000, help="quotes in the session")
    bench.add_argument("--runs", type=int, default=5, help="how often each measurement is taken")
    bench.add_argument(
        "--guards", action="store_true", help="measure what each guard costs an event instead"
    )
    bench.add_argument(
        "--layers", action="store_true",
        help="measure what each layer of the reactive graph costs an event instead",
    )  # fmt: skip
    bench.add_argument(
        "--peers", metavar="A,B,C", help="replay: measure only these; a wrong name lists them all"
    )
    bench.add_argument(
        "--whole", action="store_true",
        help="replay: give slow peers the whole session too, not a part of it",
    )  # fmt: skip
    bench.add_argument(
        "--set", action="append", default=[], metavar="A.B=C",
        help="replay: a setting of the strategy, for all peers; strategy.preset is our rows' alone",
    )  # fmt: skip
    bench.add_argument(
        "--write", action="append", default=[], type=Path, metavar="FILE",
        help="replay: put the table between the marks of a page, <!-- bench --> and "
        "<!-- /bench -->; may be repeated",
    )  # fmt: skip
    bench.add_argument(
        "--secs", type=float, default=10.0, help="live: seconds at each rate of quotes"
    )

    doctor = _command(
        commands, "doctor", _doctor, "versions, settings, credentials, free disk; or look after RUN"
    )
    doctor.add_argument(
        "run", type=Path, nargs="?", metavar="RUN",
        help="check a run or recording; of a killed run make a valid recording",
    )  # fmt: skip
    doctor.add_argument(
        "--dry-run", action="store_true", help="with RUN: tell what would be done, change nothing"
    )
    doctor.add_argument("--config", type=Path, metavar="FILE")
    return whole


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(command=run)
    return parser


def _settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="one setting over the file"
    )


def _import_commands(commands: Any) -> None:
    importer = commands.add_parser("import", help="make a recording from files")
    kinds = importer.add_subparsers(required=True, metavar="KIND")

    dbn = _command(kinds, "databento", _import_databento, "a DBN file, one feed")
    dbn.add_argument("file", type=Path, metavar="FILE")
    dbn.add_argument("--symbol", required=True, help="which instrument of the file, e.g. NVDA")
    dbn.add_argument("--as", dest="role", choices=_QUOTED, required=True)
    dbn.add_argument("--schema", help="which schema of a live file that holds several, e.g. mbp-1")
    dbn.add_argument(
        "--price-decimals", type=int, help="refuse prices with more decimals (default: 9)"
    )

    csv = _command(
        kinds, "lighter-csv", _import_lighter_csv, "a capture of Lighter's BBO, or of its trades"
    )
    csv.add_argument("file", type=Path, metavar="FILE")
    csv.add_argument("--as", dest="role", choices=(*_QUOTED, "trades"), required=True)
    csv.add_argument("--symbol", required=True, help="the market, e.g. ETH")
    csv.add_argument("--price-decimals", type=int, required=True)
    csv.add_argument("--size-decimals", type=int, required=True)
    csv.add_argument(
        "--max-back-ns",
        type=int,
        default=2_000_000,
        metavar="N",
        help="how far stamps may step back before the file is refused (default: %(default)s); "
        "naive stamps are taken as UTC",
    )

    frames = _command(kinds, "frames", _import_frames, "Parquet files, both feeds")
    frames.add_argument("--signal", type=Path, required=True, metavar="FILE")
    frames.add_argument("--target", type=Path, required=True, metavar="FILE")
    frames.add_argument("--trades", type=Path, metavar="FILE", help="public trades of the target")
    frames.add_argument("--status", type=Path, metavar="FILE", help="states of the feeds")
    _settings_options(frames)

    for parser in (dbn, csv, frames):
        parser.add_argument("--out", type=Path, required=True, metavar="RECORDING")
        parser.add_argument(
            "--replace", action="store_true", help="replace a feed that is there already"
        )


# ---------------------------------------------------------------- commands


def _settings(arguments: argparse.Namespace, recording: Path | None) -> Settings:
    return load_settings(
        config=read_document(arguments.config) if arguments.config is not None else None,
        overrides=arguments.set,
        manifest=read_manifest(recording) if recording is not None else None,
    )


def _replay(arguments: argparse.Namespace, console: Console, *, report: bool = False) -> int:
    from marblemaker.replay import ReplayError, replay, replay_together
    from marblemaker.strict import StrictError

    sources = _parts(arguments.recording)
    settings = [_settings(arguments, source) for source in sources]
    compiled = arguments.engine == "compiled" and _compiles(arguments, sources, settings, console)
    name = arguments.recording[0].resolve().name
    out: Path = arguments.out if arguments.out is not None else Path("runs") / name
    together = len(sources) > 1 or sources != arguments.recording
    options: dict[str, Any] = {
        "venue": arguments.venue,
        "bounds": arguments.fills == "bounds",
        "overwrite": arguments.overwrite or arguments.out is None,
        "strict": arguments.strict,
        "trace": arguments.trace,
    }
    try:
        with console.progress(f"replay {name}") as progress:
            if compiled:
                from marblemaker.compiled.engine import replay_compiled

                summary = replay_compiled(
                    sources[0], settings[0], out, progress=progress, note=console.note, **options
                )
            elif together:
                summary = replay_together(sources, settings, out, progress=progress, **options)
            else:
                summary = replay(sources[0], settings[0], out, progress=progress, **options)
    except (ReplayError, StrictError) as error:
        raise _Failure(str(error)) from error
    summary["run"] = str(out)
    if together:
        lines = []
        for one, part in zip(settings, summary["markets"].values(), strict=True):
            lines += [*summary_lines(part | {"run": out / part["target"]}, one), ""]
        lines += [
            f"TOGETHER  {len(sources)} markets, P&L {summary['pnl']}",
            f"  digest     {summary['digest']}",
            f"  run        {out}",
        ]
    else:
        lines = summary_lines(summary, settings[0])
    if report:
        from marblemaker.report import write_report

        summary["report"] = str(out / "report.html")
        write_report(out, out / "report.html")
        lines.append(f"  report     {summary['report']}")
    console.result(summary, lines)
    return DONE


def _compiles(
    arguments: argparse.Namespace, sources: list[Path], settings: list[Settings], console: Console
) -> bool:
    """Tell whether the compiled engine does this, or is to be left for the other one.

    Errors: SettingsError that names what it does not do, without ``--fallback``.
    """
    from marblemaker.compiled.coverage import Asked, not_done, refuse_what_is_not_done
    from streams.recording import Recording

    recordings = [Recording(source, read_manifest(source)) for source in sources]
    asked = Asked(recordings, settings[0], arguments.strict)
    if not arguments.fallback:
        refuse_what_is_not_done(asked)
    found = not_done(asked)
    if found:
        console.note(f"--engine compiled does not do {'; nor '.join(found)}: this is --engine rx")
    return not found


def _parts(folders: list[Path]) -> list[Path]:
    """The recordings meant: those given, or the markets of a run of several."""
    parts: list[Path] = []
    for folder in folders:
        markets = read_manifest(folder).markets
        parts += [folder / market for market in markets] if markets else [folder]
    return parts


def _kill(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.kill import kill, release

    file: Path | None = arguments.file
    if file is None:
        named = _settings(arguments, None).risk.kill_file
        if named is None:
            raise SettingsError(
                "which kill file? Give it as FILE, or name it in the settings (risk.kill_file); "
                "a run watches the file of its settings"
            )
        file = Path(named)
    if arguments.release:
        was_there = release(file)
        told = f"released: {file} is gone" if was_there else f"nothing to release: no {file}"
    else:
        kill(file, arguments.reason)
        told = f"killed: {file} says {arguments.reason!r}; release it with --release"
    console.result({"file": str(file), "killed": not arguments.release}, [told])
    return DONE


def _demo(arguments: argparse.Namespace, console: Console) -> int:
    arguments.recording = [BUNDLED]
    arguments.engine, arguments.venue, arguments.overwrite = "rx", None, True
    arguments.fallback = False
    arguments.fills, arguments.strict, arguments.trace = None, False, True
    return _replay(arguments, console, report=True)


def _import_databento(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.importing import import_databento

    with console.progress(f"import {arguments.file.name}") as progress:
        result = import_databento(
            arguments.file,
            symbol=arguments.symbol,
            role=arguments.role,
            out=arguments.out,
            price_decimals=arguments.price_decimals,
            schema=arguments.schema,
            replace=arguments.replace,
            progress=progress,
        )
    return _report_import(console, result)


def _import_lighter_csv(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.importing import import_lighter_csv

    _check_decimals(arguments)
    with console.progress(f"import {arguments.file.name}") as progress:
        result = import_lighter_csv(
            arguments.file,
            role=arguments.role,
            symbol=arguments.symbol,
            price_decimals=arguments.price_decimals,
            size_decimals=arguments.size_decimals,
            out=arguments.out,
            max_back_ns=arguments.max_back_ns,
            replace=arguments.replace,
            progress=progress,
        )
    return _report_import(console, result)


def _check_decimals(arguments: argparse.Namespace) -> None:
    try:
        Instrument(
            symbol=arguments.symbol,
            venue="LIGHTER",
            price_decimals=arguments.price_decimals,
            size_decimals=arguments.size_decimals,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _import_frames(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.importing import import_frames

    document = read_document(arguments.config) if arguments.config is not None else {}
    settings = load_settings(config=document, overrides=arguments.set)
    with console.progress("import frames") as progress:
        result = import_frames(
            arguments.signal,
            arguments.target,
            instruments_of(settings),
            arguments.out,
            trades=arguments.trades,
            status=arguments.status,
            settings=with_overrides(document, arguments.set),
            replace=arguments.replace,
            progress=progress,
        )
    return _report_import(console, result)


def _report_import(console: Console, result: Any) -> int:
    import msgspec

    from marblemaker.importing import rows_noun

    document = msgspec.to_builtins(result, enc_hook=str)
    feeds = ", ".join(f"{rows:,} {rows_noun(role)}" for role, rows in result.feeds.items())
    lines = [
        f"{result.path}: {feeds}, {iso(result.first_ts)} to {iso(result.last_ts)}",
        f"  {result.rows_in:,} records in = {result.rows_out:,} out "
        f"+ {sum(result.refused.values()):,} refused",
        *(f"    {n:>9,}  refused: {reason}" for reason, n in result.refused.items()),
        *(f"    {n:>9,}  kept, noted: {reason}" for reason, n in result.noted.items()),
    ]
    if result.ties:
        lines.append(f"  {result.ties:,} ties between the feeds: signal first was a choice")
    console.result(document, lines)
    return DONE


def _bench(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.what == "live":
        return _bench_live(arguments, console)
    from marblemaker.bench.guards import bench_guards
    from marblemaker.bench.layers import bench_layers
    from marblemaker.bench.side_by_side import bench
    from marblemaker.bench.table import require_marks, write_between_marks

    if arguments.quotes < 1 or arguments.runs < 1:
        raise SettingsError("--quotes and --runs must be at least 1")
    if arguments.guards or arguments.layers:
        if arguments.guards and arguments.layers:
            raise SettingsError("--guards and --layers are two measurements; choose one")
        own = "--guards measures our guards" if arguments.guards else "--layers measures our graph"
        _refuse_for_bench(arguments, f"{own} alone")
        measure = bench_guards if arguments.guards else bench_layers
        console.result(*measure(arguments.quotes, arguments.runs, console))
        return DONE
    for page in arguments.write:
        require_marks(page)
    peers = arguments.peers.split(",") if arguments.peers is not None else None
    result, lines = bench(
        arguments.quotes,
        arguments.runs,
        console,
        peers=None if peers is None else [name.strip() for name in peers if name.strip()],
        overrides=arguments.set,
        whole=arguments.whole,
    )
    console.result(result, lines)
    if result["problems"]:
        # Figures that are not comparable are shown, never published.
        return FAILED
    for page in arguments.write:
        write_between_marks(page, lines)
    return DONE


def _refuse_for_bench(arguments: argparse.Namespace, why: str) -> None:
    for name in ("peers", "whole", "set", "write"):
        if getattr(arguments, name):
            raise SettingsError(f"--{name} is of the side-by-side bench; {why}: leave it out")


def _bench_live(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.bench_live import bench_live
    from marblemaker.live import LiveError

    if not 1.0 <= arguments.secs <= 3_000.0:
        raise SettingsError("--secs must be between 1 and 3000")
    for name in ("guards", "layers"):
        if getattr(arguments, name):
            raise SettingsError(f"--{name} is of the replay; leave it out with live")
    _refuse_for_bench(arguments, "live measures latency")
    try:
        result, lines = bench_live(arguments.secs, console)
    except LiveError as error:
        raise _Failure(str(error)) from error
    console.result(result, lines)
    return DONE


def _doctor(arguments: argparse.Namespace, console: Console) -> int:
    import shutil

    import msgspec

    from marblemaker.versions import versions

    if arguments.run is not None:
        return _doctor_run(arguments, console)
    if arguments.dry_run:
        raise SettingsError("--dry-run is about a run: name its folder (marble doctor RUN)")
    settings = load_settings(
        config=read_document(arguments.config) if arguments.config is not None else None
    )
    found = versions("databento-dbn", "exchange_calendars", "rich", "zstandard")
    free = shutil.disk_usage(Path.cwd()).free
    result = {
        "versions": found,
        "platform": sys.platform,
        "cores": os.cpu_count(),
        "free_disk_bytes": free,
        "writable": os.access(Path.cwd(), os.W_OK),
        # Present or not, never the value.
        "credentials": {name: bool(os.environ.get(name)) for name in _SECRETS},
        "settings": msgspec.to_builtins(settings),
    }
    lines = [f"{name} {version}" for name, version in found.items()]
    lines += [
        f"{sys.platform}, {os.cpu_count()} cores, {free / 1e9:.1f} GB free, "
        f"folder {'writable' if result['writable'] else 'NOT WRITABLE'}",
        "credentials: "
        + ", ".join(
            f"{name} {'present' if os.environ.get(name) else 'absent'}" for name in _SECRETS
        ),
        "settings in force:",
        *(
            f"  {section}.{key} = {json.dumps(value)}"
            for section, body in msgspec.to_builtins(settings).items()
            for key, value in body.items()
        ),
    ]
    console.result(result, lines)
    return DONE if result["writable"] else FAILED


def _doctor_run(arguments: argparse.Namespace, console: Console) -> int:
    """Look after a run: 0 if it is sound now or still in progress, 1 if it is not."""
    import msgspec

    from marblemaker.salvage import salvage

    if arguments.config is not None:
        raise SettingsError("--config has no meaning with RUN: its settings are in the folder")
    report = salvage(arguments.run, dry_run=arguments.dry_run)
    console.result(msgspec.to_builtins(report), report.lines)
    return FAILED if report.state in ("killed", "damaged") else DONE


if __name__ == "__main__":
    sys.exit(main())
