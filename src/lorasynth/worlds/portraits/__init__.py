"""The embedded default world: cartoon portraits."""
