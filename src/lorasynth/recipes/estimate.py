"""Hours and memory of a recipe for photographs on one 80 GB GPU: an estimate from what was measured on an H100, never a promise.

Measured are Stable Diffusion 1.5's speed by the size of a step, and its memory (docs/results/performance.md). Other bases follow
by the operations and parameters of their true shapes (`benchmarks/true_shape.py --meta`). What gradient checkpointing leaves of a
picture's memory is counted without a GPU (`benchmarks/true_shape.py --memory`).
"""

from dataclasses import asdict, dataclass
from math import ceil

import numpy as np

from lorasynth.pipeline.recipe import Recipe

MEMORY_GB = 80
STEP_TFLOP, TFLOP_A_SECOND = (1.774, 7.096, 28.38, 56.77), (13.0, 48.6, 178.0, 190.0)
"""Operations of a step and their speed: of 1, 4, 16 and 32 pictures of 512 pixels at once. Larger steps are no faster."""
PICTURE_GB = (38.5 - 1.7) / 32
"""Of one picture of 512 pixels beside Stable Diffusion 1.5's weights, without gradient checkpointing."""
FORWARD = 1 / 2  # of a training step's operations
_VAE_MB = 170 * 2  # in float32


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A family's usual base at its true shape and size of pictures."""

    denoiser_M: int
    text_encoders_M: int
    tflop: float  # of a training step of one picture
    width: int  # of most of its layers: a picture's memory grows with its operations over this
    checkpointed: float  # part of a picture's memory that gradient checkpointing leaves


SHAPES = {
    "sd15": Shape(denoiser_M=860, text_encoders_M=123, tflop=1.73, width=640, checkpointed=0.28),
    "sdxl": Shape(denoiser_M=2_567, text_encoders_M=817, tflop=14.22, width=1_280, checkpointed=0.10),
    "sd3": Shape(denoiser_M=2_028, text_encoders_M=5_580, tflop=20.69, width=1_536, checkpointed=0.15),
    "flux": Shape(denoiser_M=11_901, text_encoders_M=4_885, tflop=163.59, width=3_072, checkpointed=0.10),
    # The text encoder by arithmetic, for a T5 encoder of 24 layers 2,048 wide. Its configuration was not read.
    "auraflow": Shape(denoiser_M=6_859, text_encoders_M=1_223, tflop=96.32, width=3_072, checkpointed=0.09),
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of a recipe with --precision bf16."""

    zoo_hours: float  # of 1,000 LoRAs and the pilot, without gradient checkpointing; a third more with it
    end_to_end_hours: float
    memory_gb: float  # at most, of zoo and end to end
    memory_gb_checkpointed: float

    @property
    def fits(self) -> bool:
        """Whether it fits with gradient checkpointing."""
        return self.memory_gb_checkpointed <= MEMORY_GB


def estimate(recipe: Recipe, loras: int = 1_000) -> Estimate:
    """How long a recipe takes on one 80 GB GPU, and how much of it it needs, with weights in bfloat16.

    Args:
        recipe: of a family of `SHAPES`, with a zoo that is built.
        loras: how many the zoo gets.
    """
    shape, zoo, through = SHAPES[recipe.family], recipe.zoo, recipe.end_to_end.through
    assert zoo is not None

    def hours(pictures: float, steps: int) -> float:
        work = pictures * shape.tflop
        return steps * work / float(np.interp(work, STEP_TFLOP, TFLOP_A_SECOND)) / 3_600

    # 1. Pictures at once: of the pilot, of a bank, and end to end the drawn state and the photo of each person.
    at_once = min(zoo.bank, zoo.pilot_people) if zoo.pilot_in_banks else zoo.pilot_people
    pilot, bank = at_once * zoo.pilot.batch_size, zoo.bank * zoo.adapt.batch_size
    drawn = 2 * through.people_a_step
    # 2. Hours. End to end half of the drawing steps, in the mean, are taken without gradients.
    drawing = through.people_a_step * FORWARD * through.drawing_steps / 2
    pilot_hours = ceil(zoo.pilot_people / at_once) * hours(float(pilot), zoo.pilot.steps)
    zoo_hours = zoo.pilot_rounds * pilot_hours + ceil(loras / zoo.bank) * hours(float(bank), zoo.adapt.steps)
    # 3. Memory: weights, and what is kept of each picture for the gradient.
    weights = (2 * (shape.denoiser_M + shape.text_encoders_M) + _VAE_MB) / 1_000
    usual = SHAPES["sd15"]
    picture = PICTURE_GB * (shape.tflop / usual.tflop) * (usual.width / shape.width)
    most = max(pilot, bank, drawn) * picture
    return Estimate(
        zoo_hours=zoo_hours, end_to_end_hours=hours(drawn + drawing, through.loop.steps),
        memory_gb=weights + most, memory_gb_checkpointed=weights + shape.checkpointed * most,
    )  # fmt: skip


ABOUT = (
    "estimates, never a promise: nobody has run these recipes at true size. Speed and memory of a picture are those of Stable "
    "Diffusion 1.5 on an H100; what gradient checkpointing leaves of that memory is counted without a GPU, not measured on one "
    "(docs/results/performance.md)"
)
"""What `lorasynth doctor` says of its estimates."""


def estimates() -> dict[str, dict[str, float]]:
    """Of each recipe for photographs, rounded as far as an estimate goes."""
    from lorasynth.recipes import get_recipe

    found = {name: asdict(estimate(get_recipe(name))) for name in SHAPES}
    return {name: {key: float(f"{value:.2g}") for key, value in values.items()} for name, values in found.items()}
