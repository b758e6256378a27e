"""A world of objects: emblems of known shape, colours and pattern."""

from lorasynth.worlds.domain import Domain
from lorasynth.worlds.emblems.captions import SUBJECT, VOCABULARY, identity_words, photo_words
from lorasynth.worlds.emblems.draw import draw
from lorasynth.worlds.emblems.factors import IDENTITY, NUISANCE
from lorasynth.worlds.emblems.probe import EmblemProbe

DOMAIN = Domain(
    name="emblems",
    about="drawn emblems, one on a plain background",
    identity=IDENTITY,
    nuisance=NUISANCE,
    draw=draw,
    subject=SUBJECT,
    anyone="an emblem",
    head="a picture of {}",
    identity_words=identity_words,
    photo_words=photo_words,
    vocabulary=VOCABULARY,
    prompts=(
        f"a picture of {SUBJECT}",
        f"a picture of {SUBJECT}, on a blue background, on the left",
        f"a picture of {SUBJECT}, on a red background",
        f"a picture of {SUBJECT}, on a green background, on the right",
    ),
    probe=EmblemProbe,
)
