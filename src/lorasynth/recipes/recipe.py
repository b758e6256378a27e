"""What a recipe is: the settings of every stage from zoo to synthesizer.

Recipe             what any zoo needs: canonical form, VAE, priors
├── WorldRecipe    of a drawn world: makes its zoo, trains through the base, chooses settings by pictures
└── BaseRecipe     of a real base model: its zoo is imported, and weights are all that settings can be chosen by
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lorasynth.canonical.canonicalizer import Gauge, Metric
from lorasynth.errors import ZooError
from lorasynth.lora.layout import Layout
from lorasynth.prior.training import PriorConfig
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.training import LoopConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.store import Zoo

R = TypeVar("R", bound="Recipe")


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """What any zoo needs."""

    name: str
    gauge: Gauge
    metric: Metric = "entries"
    vae: VAEConfig = field(default_factory=VAEConfig)
    priors: tuple[PriorConfig, ...] = (PriorConfig(conditioning="adalora"), PriorConfig(conditioning="adanorm"))
    regression: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=2_000, learning_rate=1e-3, weight_decay=3.0)
    )
    kernel_lambda: float = 0.1
    remembered: int = 2_000  # people whom the baselines "nearest" and "kernel" hold: their files grow with them

    def seeded(self: R, seed: int) -> R:
        """The same with another seed for VAE and priors."""
        vae = replace(self.vae, loop=replace(self.vae.loop, seed=seed))
        priors = tuple(replace(p, loop=replace(p.loop, seed=seed)) for p in self.priors)
        return replace(self, vae=vae, priors=priors)

    def fitted_to(self: R, zoo: Zoo) -> R:
        """The same with what it leaves to the zoo; itself where it leaves nothing."""
        return self

    @abstractmethod
    def check_layout(self, layout: Layout) -> None:
        """Refuse the layout of a zoo that this recipe is not for (a ZooError)."""


@dataclass(frozen=True, kw_only=True)
class WorldRecipe(Recipe):
    """Of a drawn world."""

    zoo: ZooConfig = field(default_factory=ZooConfig)
    gauge: Gauge = "anchored"
    # NOTE: `lorasynth experiment metric` has the reason. The shipped portraits are of before: entries, each tensor alike.
    metric: Metric = "updates"
    refine: RefineConfig = field(default_factory=RefineConfig)  # of each prior, and the critic
    redraw: RefineConfig = field(  # of each prior after that
        default_factory=lambda: RefineConfig(
            states="drawn", people_a_step=8, scale=1.4, identity_weight=2.0,
            loop=replace(RefineConfig().loop, steps=2_000, learning_rate=1e-3, validate_every=200),
        )
    )  # fmt: skip
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)  # then, of all priors and the VAE
    refined_apart: bool = True  # whether each prior goes through `refine` and `redraw` before `end_to_end`
    tune_people: int = 24  # validation people that scales and sampler settings are chosen on
    fine_tuning: AdaptConfig = FINE_TUNING  # the LoRA that a synthesised one is compared with

    def seeded(self, seed: int) -> "WorldRecipe":
        """The same with another seed for VAE, priors and critic."""
        critic = replace(self.refine.critic, seed=seed)
        refine = replace(self.refine, critic=critic, loop=replace(self.refine.loop, seed=seed))
        redraw = replace(self.redraw, loop=replace(self.redraw.loop, seed=seed))
        through = replace(self.end_to_end.through, loop=replace(self.end_to_end.through.loop, seed=seed))
        last = replace(self.end_to_end, through=through)
        return replace(super().seeded(seed), refine=refine, redraw=redraw, end_to_end=last)

    def check_layout(self, layout: Layout) -> None:
        """Refuse a zoo of another base (a ZooError)."""
        if layout.base != self.zoo.world:
            raise ZooError(
                f"expected a zoo of the world {self.zoo.world!r} for recipe {self.name!r}, got one of base {layout.base!r}; "
                "choose the recipe of that base"
            )


@dataclass(frozen=True, kw_only=True)
class BaseRecipe(Recipe):
    """Of a real base model, on a zoo that was imported or made from photographs."""

    base: str  # hub id; a zoo that was made here names its own
    layout: str  # preset; "" for any
    family: str = ""  # of a layout that is any; "" for any family
    picture_size: int  # pixels a side of what the base draws
    zoo: ZooConfig | None = None  # how a zoo is made from photographs; None: it is imported
    gauge: Gauge = "procrustes"
    tune_loras: int = 256  # validation LoRAs that scales and sampler settings are chosen on, by the error of ΔW

    def check_layout(self, layout: Layout) -> None:
        """Refuse a zoo of another family or other modules; any rank will do (a ZooError)."""
        if not self.layout:
            if self.family not in ("", layout.base):
                raise ZooError(
                    f"expected a zoo of family {self.family!r} for recipe {self.name!r}, got one of {layout.base!r}; choose "
                    "the recipe of that family"
                )
            return
        expected = Layout.preset(self.layout, rank=layout.modules[0].rank)
        if differences := expected.diff(layout):
            raise ZooError(
                f"expected a zoo of layout {self.layout!r} for recipe {self.name!r}, got one in which {differences[0]}; import "
                f"it with --layout {self.layout}, or train the recipe 'imported', which takes any"
            )
