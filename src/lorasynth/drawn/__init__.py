"""A drawn world as an encoder, its border, and its people as folders of pictures."""
