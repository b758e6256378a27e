"""What makes a person, and what makes a photo of them: the names of the portraits' factors."""

IDENTITY: tuple[str, ...] = (
    "face_width", "face_height", "jaw", "skin_tone", "skin_hue", "ear_size",
    "eye_size", "eye_gap", "eye_tilt", "eye_height", "eye_openness", "eye_colour",
    "brow_thickness", "brow_angle", "brow_height",
    "nose_length", "nose_width",
    "mouth_height", "mouth_width", "lip_thickness", "lip_colour",
    "hair_hue", "hair_lightness", "hair_length", "hair_volume", "hair_fringe", "hair_parting", "hair_curl",
    "beard", "moustache", "glasses", "glasses_size", "freckles", "mole", "mole_place", "blush",
)  # fmt: skip
"""Names of the 36 identity factors, in column order."""

NUISANCE: tuple[str, ...] = (
    "shift_x", "shift_y", "roll", "zoom", "yaw", "expression", "mouth_open", "gaze",
    "light_side", "brightness", "background", "background_shade", "shirt", "shirt_shade",
)  # fmt: skip
"""Names of the 14 nuisance factors, in column order."""
