"""The peers, one a file; each needs its own packages, so only ``child`` imports them.

A peer has ``run(recording, folder, job, settings)``, which gives a ``Ran``; one that reads files of
its own kind has ``prepare`` besides, which writes them into the folder and is not timed.
"""
