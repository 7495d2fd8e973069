"""The compiled engine: the same decisions as the reactive graph, in one loop of machine code.

What is what:

- ``coverage``: what it does not do, and refuses by name.
- ``told``: settings become numbers. ``texts``: so do words. ``layout``: records and tables.
- ``read``: Parquet files become columns.
- ``steps``: the formulas, which are the operators' own. ``machine``: how functions are compiled.
- ``clock``, ``feed``, ``decide``, ``price``, ``pace``: the graph, as values flow; ``sink``,
  ``venue``: the order sink and the simulated venue. A function a rule, named as in ``operators``
  and ``sinks``.
- ``loop``: the pump's order of work, which calls all these.
- ``write``: rows become the files and digests of a run folder. ``engine``: all of it together.
"""
