"""The embedded default world: cartoon portraits of people."""

from lorasynth.worlds.domain import Domain
from lorasynth.worlds.portraits.captions import SUBJECT, VOCABULARY, identity_words, photo_words
from lorasynth.worlds.portraits.draw import draw
from lorasynth.worlds.portraits.factors import IDENTITY, NUISANCE
from lorasynth.worlds.portraits.features import FEATURES
from lorasynth.worlds.portraits.probe import PortraitProbe

DOMAIN = Domain(
    name="portraits",
    about="drawn portraits, seen from the front, one person in the middle",
    identity=IDENTITY,
    nuisance=NUISANCE,
    draw=draw,
    subject=SUBJECT,
    anyone="a person",
    head="a photo of {}",
    identity_words=identity_words,
    photo_words=photo_words,
    vocabulary=VOCABULARY,
    prompts=(
        f"a photo of {SUBJECT}",
        f"a photo of {SUBJECT}, smiling, on a blue background",
        f"a photo of {SUBJECT}, frowning, wearing a red shirt",
        f"a photo of {SUBJECT}, serious, on a green background",
    ),
    probe=PortraitProbe.fit,
    visible=FEATURES,
    details=("glasses", "freckles", "mole", "moustache", "blush"),
)
