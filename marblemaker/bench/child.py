"""One run of a peer, in a process of its own: `python -m marblemaker.bench.child ARGUMENTS`.

A process each, so that no peer finds the imports, memory or compiled code of another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import msgspec

from marblemaker.bench.job import NOT_HERE, NotHereError, job_of
from marblemaker.settings import load_settings
from streams.recording import read_manifest

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run ``module``'s function ``step`` on a recording and write what it tells to a file.

    ``argv``: module, step (``run`` or ``prepare``), recording, a folder that the peer may keep
    things in, the file to write, and settings (``a.b=c``). Written to a file, because some peers
    print what they like.
    """
    module, step, recording, folder, answer, *overrides = argv
    settings = load_settings(overrides=overrides, manifest=read_manifest(Path(recording)))
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        peer = import_module(f"marblemaker.bench.peers.{module}")
        ran = getattr(peer, step)(Path(recording), Path(folder), job_of(settings), settings)
    except (ImportError, NotHereError) as error:
        Path(answer).write_text(json.dumps({"not_here": str(error)}))
        return NOT_HERE
    Path(answer).write_bytes(msgspec.json.encode(ran))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
