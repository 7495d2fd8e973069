"""``python -m marblemaker.compiled``: compile now what the first start would wait for.

For images and test machines. The loop with one signal and that with several are two pieces of
code; each is compiled in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

_LOOPS = (1, 2)


def main() -> int:
    """Compile both loops; return the exit code."""
    code = "from marblemaker.compiled.engine import prepare; prepare(signals={})"
    started = [subprocess.Popen([sys.executable, "-c", code.format(n)]) for n in _LOOPS]
    return max(one.wait() for one in started)


if __name__ == "__main__":
    sys.exit(main())
