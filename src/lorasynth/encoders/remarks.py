"""A sentence about a photo with a stable name for programs: as errors have a ``code``, so have notes and warnings."""


class Remark(str):
    """Words for people. ``code`` says in one word what they are about: "blurred", "turned", "reduced"."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, words: str) -> "Remark":
        """Make one.

        Args:
            code: its name.
            words: the sentence.
        """
        remark = super().__new__(cls, words)
        remark.code = code
        return remark

    @classmethod
    def about(cls, name: str, words: str) -> "Remark":
        """A remark with the photo's name before it, unless that is empty. Another encoder's plain words have the code "other"."""
        return cls(getattr(words, "code", "other"), f"{name}: {words}" if name else words)

    def __reduce__(self) -> tuple:
        """Pickled by both."""
        return Remark, (self.code, str(self))
