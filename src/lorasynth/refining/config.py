"""How priors, the critic and the VAE are trained through the base model."""

from dataclasses import dataclass, field, replace
from typing import Literal

from lorasynth.errors import UsageError
from lorasynth.training import LoopConfig
from lorasynth.worlds.recogniser_training import RecogniserConfig


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Training of a prior through the base model, and of the critic that it is held against."""

    people: int = 40_000  # at most, of whom there are photos and need be no LoRAs
    first_person: int = 3_000  # of a drawn world's, counted among those that a zoo may hold: behind those of the zoo
    people_a_step: int = 16
    photos: int = 12  # of each person: as many to be given and as many to be denoised; a drawn world has 12
    validation_people: int = 32
    scale: float = 1.1  # of the canonical vector; see `Synthesizer.synthesize`
    num_inference_steps: int = 8
    states: Literal["photo", "drawn"] = "photo"  # that the critic sees predictions from: `Judge`
    noise_from: float = 0.6  # "photo": the part of the noise schedule, up to 1, in which a picture's person is decided
    drawing_steps: int = 6  # "drawn": of the base's sampler; fewer pay, says `benchmarks/through_base.py`
    identity_weight: float = 1.0
    critic_photos: int = (
        3  # of a person, whose mean the critic takes the person for; 1: that whose caption is asked for
    )
    critic: RecogniserConfig = field(default_factory=lambda: RecogniserConfig(loss="arcface", steps=1_600))
    critic_people: int = 6_000  # at most
    critic_noise: float = 0.3  # at most, on the latents it learns from: predictions are not clean
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=8_000, learning_rate=1.5e-3, warmup_steps=50, weight_decay=0.0, beta2=0.99, ema_decay=0.998,
            validate_every=250, checkpoint_every_s=120.0,
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: fewer than two steps of drawing, of which one is without gradients and one with.
        """
        if self.states == "drawn" and self.drawing_steps < 2:
            raise UsageError(f"expected at least 2 drawing steps, got {self.drawing_steps}")


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig:
    """Training of priors and VAE together, through the base model, while the VAE keeps reconstructing the LoRAs of the zoo."""

    through: RefineConfig = field(
        default_factory=lambda: RefineConfig(
            states="drawn", people_a_step=12, identity_weight=1.0,
            loop=replace(RefineConfig().loop, steps=4_500, learning_rate=5e-4, validate_every=200),
        )
    )  # fmt: skip
    zoo_weight: float = 0.5
    zoo_batch: int = 64
    kl_weight: float = 1e-4
