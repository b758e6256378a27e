"""Everything that can go wrong through no fault of ours, each with one line that says what to do.

    LorasynthError               a mistake in what was given to us: the command line exits with 2
    ├── UsageError               an argument's value is out of its range
    ├── OutputExistsError        the output is there already and --force was not given
    ├── ConsentError             nobody said that the person in the photo agreed
    ├── PhotoError               a photo cannot be used
    │   ├── OutsideWorldError    a photo is not of the kind that the model was made for
    │   └── FaceError            a photo's face cannot be used
    │       ├── NoFaceError      there is none
    │       ├── SeveralFacesError  there are several, and nobody said which
    │       ├── SmallFaceError   it has too few pixels
    │       └── TurnedFaceError  it does not stand upright, and which way it does is not sure
    ├── LoRAFileError            a LoRA file cannot be trusted
    ├── LayoutError              a LoRA or a model does not have the modules that are expected
    ├── ModelError               a synthesizer's or a world's folder, or a face model's file, cannot be used
    ├── ZooError                 a zoo's folder or its items cannot be used
    ├── CheckpointError          a run cannot be resumed from what is on disk
    └── MissingExtraError        an optional dependency is not installed

A message says what was expected, what came, and what to do next.
"""


class LorasynthError(Exception):
    """Base of all errors that are the user's to mend. ``code`` is a stable name for programs."""

    code = "error"


class UsageError(LorasynthError):
    """An argument's value is out of its range."""

    code = "usage"


class OutputExistsError(LorasynthError):
    """The output exists already."""

    code = "output-exists"


class ConsentError(LorasynthError):
    """Consent was not stated."""

    code = "consent"


class PhotoError(LorasynthError):
    """A photo cannot be used."""

    code = "photo"


class OutsideWorldError(PhotoError):
    """A photo is not of the kind that the model was made for."""

    code = "outside-world"


class FaceError(PhotoError):
    """A photo's face cannot be used."""

    code = "face"


class NoFaceError(FaceError):
    """A photo shows no face."""

    code = "no-face"


class SeveralFacesError(FaceError):
    """A photo shows several faces, and nobody said which one is meant."""

    code = "several-faces"


class SmallFaceError(FaceError):
    """A photo's face has too few pixels."""

    code = "small-face"


class TurnedFaceError(FaceError):
    """A photo's face does not stand upright, and which way it does is not sure."""

    code = "turned-face"


class LoRAFileError(LorasynthError):
    """A LoRA file cannot be trusted."""

    code = "lora-file"


class LayoutError(LorasynthError):
    """A LoRA or model does not have the modules that are expected."""

    code = "layout"


class ModelError(LorasynthError):
    """A synthesizer's or a world's folder, or a face model's file, cannot be used."""

    code = "model"


class ZooError(LorasynthError):
    """A zoo's folder or items cannot be used."""

    code = "zoo"


class CheckpointError(LorasynthError):
    """A run cannot be resumed."""

    code = "checkpoint"


class MissingExtraError(LorasynthError):
    """An optional dependency is not installed."""

    code = "missing-extra"
