"""The portraits world at 128 pixels: the same people, and captions that say where a face is turned."""

from dataclasses import replace

from lorasynth.worlds.portraits.captions import SUBJECT, VOCABULARY, photo_words, turned_words
from lorasynth.worlds.portraits.domain import DOMAIN as PORTRAITS

DOMAIN = replace(
    PORTRAITS,
    name="portraits128",
    smaller=PORTRAITS.name,
    picture_size=128,
    photo_words=lambda f: [*photo_words(f), *turned_words(f)],
    vocabulary=tuple(sorted({*VOCABULARY, "looking", "left", "right"})),
    prompts=(*PORTRAITS.prompts, f"a photo of {SUBJECT}, looking left"),
)
