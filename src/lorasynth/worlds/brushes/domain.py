"""A world of styles: the same scenes, drawn in known ways."""

from lorasynth.worlds.brushes.captions import SUBJECT, VOCABULARY, identity_words, photo_words
from lorasynth.worlds.brushes.draw import draw
from lorasynth.worlds.brushes.factors import IDENTITY, NUISANCE
from lorasynth.worlds.brushes.probe import SceneProbe
from lorasynth.worlds.domain import Domain

DOMAIN = Domain(
    name="brushes",
    about="drawn scenes of two things under a sky, all in one style",
    identity=IDENTITY,
    nuisance=NUISANCE,
    draw=draw,
    subject=SUBJECT,
    anyone="a style",
    head="a picture in {}",
    identity_words=identity_words,
    photo_words=photo_words,
    vocabulary=VOCABULARY,
    prompts=(
        f"a picture in {SUBJECT}",
        f"a picture in {SUBJECT}, a house on the left, a tree on the right, a sun above",
        f"a picture in {SUBJECT}, a boat on the left, a mountain on the right",
        f"a picture in {SUBJECT}, a mushroom on the left, a car on the right, a moon above",
    ),
    probe=SceneProbe.fit,
)
