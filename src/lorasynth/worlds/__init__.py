"""Self-made domains in which the whole method runs for real, with known truth."""
