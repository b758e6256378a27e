"""Is the generated person the person in the photo? Rendering many LoRAs at once, scores, picture sheets."""
