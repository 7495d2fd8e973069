"""The bench: engines and peers side by side, in one run, on the same quotes.

- ``peers``: who takes part, one file each, imported only by the process that runs it.
- ``listing``: their names, what each does less, and how many quotes each is given.
- ``job``: the one job that all do, in numbers, and what is told of a run. ``child``: what
  a process does.
- ``sessions``, ``quotes``: what they are given. ``runs``: a process a run.
- ``side_by_side``: all of it, by turns. ``table``: what is shown of it.
- ``guards``: what each of our guards costs.
"""
