"""``marble prove`` and ``marble bisect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from marblemaker.console import DONE, FAILED, WRONG_USE, Console

__all__ = ["add_prove_commands"]


def add_prove_commands(commands: Any, command: Any) -> None:
    """Add both to the command line; ``command`` adds one."""
    prove = command(
        commands, "prove", _prove, "replay a run's inputs and compare what every operator put out"
    )
    prove.add_argument("run", type=Path, metavar="RUN")
    prove.add_argument(
        "--config", type=Path, metavar="FILE",
        help="settings that the run is claimed to have had, TOML; others are told",
    )  # fmt: skip
    prove.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="one setting over the file"
    )
    prove.add_argument(
        "--strict", action="store_true",
        help="refuse whatever reads a clock, random numbers, the environment … for a decision",
    )  # fmt: skip
    prove.add_argument(
        "--perturb", action="store_true",
        help="replay also under other hash seeds, batch sizes and collector settings",
    )  # fmt: skip
    prove.add_argument(
        "--out", type=Path, metavar="FILE", help="write the certificate (JSON) there"
    )

    bisect = command(commands, "bisect", _bisect, "the first output in which two runs differ")
    bisect.add_argument("a", type=Path, metavar="A")
    bisect.add_argument("b", type=Path, metavar="B")


def _prove(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.files import write_whole
    from marblemaker.perturb import PerturbError
    from marblemaker.prove import certificate_lines, perturb, prove
    from marblemaker.settings import SettingsError, read_document
    from streams.recording import read_manifest

    if arguments.perturb and read_manifest(arguments.run).markets:
        raise SettingsError("--perturb takes a run of one market; name the folder of one")
    with console.progress(f"prove {arguments.run.resolve().name}") as progress:
        certificate = prove(
            arguments.run,
            config=None if arguments.config is None else read_document(arguments.config),
            overrides=arguments.set,
            strict=arguments.strict,
            progress=progress,
        )
    if arguments.perturb and certificate.verdict == "identical":
        try:
            with console.progress("perturb") as tried:
                perturb(certificate, arguments.run, progress=tried)
        except PerturbError as error:
            return console.error(str(error), FAILED)
    document = msgspec.to_builtins(certificate)
    if arguments.out is not None:
        text = msgspec.json.format(msgspec.json.encode(document), indent=2)
        write_whole(arguments.out, text + b"\n")
    console.result(document, certificate_lines(certificate))
    return {"identical": DONE, "diverged": FAILED}.get(certificate.verdict, WRONG_USE)


def _bisect(arguments: argparse.Namespace, console: Console) -> int:
    from marblemaker.bisect import bisect, comparable, difference_lines

    notes = comparable(arguments.a, arguments.b)
    difference = bisect(arguments.a, arguments.b)
    names = _told_apart(arguments.a, arguments.b)
    document = {
        "a": str(arguments.a),
        "b": str(arguments.b),
        "identical": difference is None,
        "notes": notes,
        "difference": msgspec.to_builtins(difference),
    }
    if difference is None:
        lines = ["identical: every operator put out the same"]
    else:
        lines = difference_lines(difference, names)
    console.result(document, [*lines, *(f"  note: {note}" for note in notes)])
    return DONE if difference is None else FAILED


def _told_apart(a: Path, b: Path) -> tuple[str, str]:
    """Names of two runs: of their folders, with as much of the path as tells them apart."""
    ours, theirs = a.resolve().parts, b.resolve().parts
    for k in range(1, max(len(ours), len(theirs)) + 1):
        if ours[-k:] != theirs[-k:]:
            return "/".join(ours[-k:]), "/".join(theirs[-k:])
    return "A", "B"
