"""Observable to observable, one operator a file; ``quoting`` composes them into the graph."""
