"""The embedded default world: cartoon portraits."""

from lorasynth.worlds.portraits.captions import SUBJECT, subject_caption
from lorasynth.worlds.portraits.draw import photos_of
from lorasynth.worlds.portraits.factors import nuisance_factors
from lorasynth.worlds.world import ASSETS, World

PROMPTS = (
    f"a photo of {SUBJECT}",
    f"a photo of {SUBJECT}, smiling, on a blue background",
    f"a photo of {SUBJECT}, frowning, wearing a red shirt",
    f"a photo of {SUBJECT}, serious, on a green background",
)


def portraits() -> World:
    """The world of cartoon portraits, with the shipped base model and recognisers."""
    return World(
        name="portraits",
        folder=ASSETS / "portraits",
        draw=photos_of,
        captions=lambda persons, photos: [subject_caption(row) for row in nuisance_factors(persons, photos).cpu()],
        prompts=PROMPTS,
    )
