"""What makes a style, and what makes a scene: names of the factors, and of the kinds of things that scenes show."""

IDENTITY: tuple[str, ...] = (
    "line_width", "line_hue", "line_lightness", "line_strength", "sketching",
    "wobble", "wobble_scale", "roundness",
    "hue", "hue_spread", "saturation", "lightness", "contrast",
    "paper_hue", "paper_saturation", "paper_lightness",
    "hatching", "hatching_angle", "hatching_spacing", "crossing",
    "shading", "blur", "misprint", "misprint_angle", "grain", "grain_scale", "vignette",
)  # fmt: skip
"""Names of the 27 identity factors, in column order: those of the style."""

NUISANCE: tuple[str, ...] = (
    "left", "right", "sky", "left_x", "right_x", "left_size", "right_size", "sky_x", "sky_y", "horizon", "hill", "hill_x",
)  # fmt: skip
"""Names of the 12 nuisance factors, in column order: those of the scene."""

THINGS = ("house", "tree", "boat", "flower", "mushroom", "mountain", "car", "cactus")
"""Equal parts of the factors "left" and "right"."""

SKIES = ("sun", "moon", "cloud", "star")
"""Equal parts of the factor "sky"."""
