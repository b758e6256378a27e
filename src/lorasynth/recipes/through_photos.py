"""Training through a real base, by photographs: what recipes of real bases have in common.

NOTE: nobody has run these at true size. Steps are those that paid in drawn worlds; people a step and guidance follow from what
fits beside a base on one GPU.
"""

from dataclasses import replace
from typing import Any

from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.worlds.recogniser_training import RecogniserConfig
from lorasynth.zoo.adapt import FINE_TUNING

_LOOP = replace(RefineConfig().loop, steps=4_000, learning_rate=5e-4, validate_every=500, checkpoint_every_s=600.0)
_REFINE = RefineConfig(
    first_person=0, people=1_000_000, people_a_step=8, validation_people=8, critic_people=100_000, loop=_LOOP,
    critic=RecogniserConfig(loss="arcface", steps=4_000, learning_rate=1e-3),
)  # fmt: skip
_DRAWN = replace(_REFINE, states="drawn")

THROUGH_PHOTOS: dict[str, Any] = {
    "refine": _REFINE,
    "redraw": replace(_DRAWN, scale=1.4, identity_weight=2.0),
    "end_to_end": EndToEndConfig(through=_DRAWN, zoo_batch=16),
    "refined_apart": False,  # straight on to end to end: it ended as high in drawn worlds, in half of the time
    "tune_people": 8,
    "fine_tuning": replace(FINE_TUNING, steps=400, batch_size=2, learning_rate=1e-3),
}
"""Fields of `Recipe`."""


def few_steps() -> dict[str, Any]:
    """The same for a few steps of a few people, to walk the way in a minute."""
    loop = replace(_LOOP, steps=3, warmup_steps=1, validate_every=2)
    short = {"people_a_step": 2, "validation_people": 2, "num_inference_steps": 2, "drawing_steps": 2, "loop": loop}
    critic = RecogniserConfig(loss="arcface", steps=4, batch_size=4)
    refine = replace(THROUGH_PHOTOS["refine"], critic=critic, **short)
    redraw = replace(THROUGH_PHOTOS["redraw"], **short)
    last = replace(THROUGH_PHOTOS["end_to_end"], through=redraw, zoo_batch=2)
    tuning = replace(THROUGH_PHOTOS["fine_tuning"], steps=4)
    return THROUGH_PHOTOS | {
        "refine": refine, "redraw": redraw, "end_to_end": last, "fine_tuning": tuning, "tune_people": 2
    }  # fmt: skip
