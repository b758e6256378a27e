"""Why a photo cannot be used, before it is known what the photo is called: `read_photo` puts the name before the words."""


class DamagedError(ValueError):
    """The bytes are not a whole picture."""


class RefusedError(ValueError):
    """The picture may be whole, and is not one to be opened. The message says what was expected, what came, and what to do."""
