"""What makes an emblem, and what makes a picture of it: names of the factors, and of the kinds that some of them choose."""

IDENTITY: tuple[str, ...] = (
    "shape", "stretch", "lean", "count", "depth",
    "fill_hue", "fill_saturation", "fill_lightness",
    "pattern", "pattern_scale", "pattern_angle", "pattern_balance", "pattern_phase",
    "accent_hue", "accent_saturation", "accent_lightness",
    "rim_width", "rim_hue", "rim_lightness", "inset",
    "charge", "charge_size", "charge_height", "charge_hue", "charge_lightness", "gloss",
)  # fmt: skip
"""Names of the 26 identity factors, in column order."""

NUISANCE: tuple[str, ...] = (
    "place", "height", "turn", "zoom", "light_side", "light_height", "brightness", "shadow",
    "background", "background_shade",
)  # fmt: skip
"""Names of the 10 nuisance factors, in column order."""

SHAPES = (
    "disc", "square", "polygon", "star", "flower", "cog", "heart", "shield", "drop", "moon", "cross", "leaf",
)  # fmt: skip
"""Equal parts of the factor "shape"."""

PATTERNS = ("stripes", "checks", "dots", "rings", "rays", "waves", "quarters", "fading")
"""Equal parts of the factor "pattern"."""

CHARGES = ("nothing", "disc", "ring", "star", "cross", "diamond", "drop")
"""Equal parts of the factor "charge": the small figure in the middle."""

PLACES = ("left", "middle", "right")
"""Equal parts of the factor "place"."""
