"""A world of styles: the same scenes, drawn in known ways."""
