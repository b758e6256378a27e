"""Files: written whole or not at all, read strictly, packed, larger than memory, and on the hub."""
