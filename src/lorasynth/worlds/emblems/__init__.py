"""A world of objects: emblems of known shape, colours and pattern."""
