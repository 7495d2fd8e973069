"""From decisions to the world: the order sink, its book-keeping, venues and the journal."""
