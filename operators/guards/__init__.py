"""Guards: operators that take a quote away, and say by which values they judged.

Those of one feed turn a quote or a mid into a ``Refusal``; those of both turn a state into one.
"""
