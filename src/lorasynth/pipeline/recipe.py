"""What a recipe is: the settings of every stage from zoo to synthesizer."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lorasynth.canonical.canonicalizer import Gauge, Metric
from lorasynth.errors import UsageError, ZooError
from lorasynth.lora.layout import Layout
from lorasynth.prior.training import PriorConfig
from lorasynth.refining import EndToEndConfig, RefineConfig
from lorasynth.training import LoopConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.worlds.world import WORLDS
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig
from lorasynth.zoo.config import ZooConfig, is_pilot_alone
from lorasynth.zoo.store import Zoo


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of every stage, for a drawn world or for any base."""

    name: str
    # 1. The base, and the zoo.
    family: str = ""  # of bases: "sd15", "sdxl", …, or a drawn world's name; "" for any
    base: str = ""  # where none is named: a hub id or a drawn world
    layout: str = ""  # preset of the modules that an imported zoo must have; "" for any
    picture_size: int = 64  # pixels a side of what the base draws, where the zoo does not say
    zoo: ZooConfig | None = None  # how a zoo is built; None: it is imported
    # 2. What a zoo teaches.
    gauge: Gauge = "anchored"
    metric: Metric = "entries"
    vae: VAEConfig = field(default_factory=VAEConfig)
    priors: tuple[PriorConfig, ...] = (PriorConfig(conditioning="adalora"), PriorConfig(conditioning="adanorm"))
    regression: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=2_000, learning_rate=1e-3, weight_decay=3.0)
    )
    kernel_lambda: float = 0.1
    max_stored_subjects: int = (
        2_000  # people whom the baselines "nearest" and "kernel" hold: their files grow with them
    )
    fit_to_zoo: "Callable[[Recipe, Zoo], Recipe] | None" = None  # sets what this recipe leaves to the zoo
    # 3. Through the base.
    refine: RefineConfig = field(default_factory=RefineConfig)  # of each prior, and the critic
    redraw: RefineConfig = field(  # of each prior after that
        default_factory=lambda: RefineConfig(
            states="drawn", people_a_step=8, scale=1.4, identity_weight=2.0,
            loop=replace(RefineConfig().loop, steps=2_000, learning_rate=1e-3, validate_every=200),
        )
    )  # fmt: skip
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)  # then, of all priors and the VAE
    refined_apart: bool = True  # whether each prior goes through `refine` and `redraw` before `end_to_end`
    # 4. Settings, and what a synthesised LoRA is compared with.
    tune_people: int = 24  # validation people that scales and sampler settings are chosen on, by pictures
    tune_loras: int = 256  # validation LoRAs for the same by the error of ΔW, where there are no pictures
    fine_tuning: AdaptConfig = FINE_TUNING

    def __post_init__(self) -> None:
        """Refuse two priors of one name.

        Raises:
            UsageError: two priors have one conditioning, which is what their files are called by.
        """
        if len(set(self.prior_names)) < len(self.priors):
            raise UsageError(f"recipe {self.name!r}: expected priors of different conditioning, got {self.prior_names}")

    @property
    def world(self) -> str | None:
        """The drawn world of the recipe, or None for a real base's."""
        return self.family if self.family in WORLDS else None

    @property
    def prior_names(self) -> list[str]:
        """The diffusion priors'."""
        return [config.conditioning for config in self.priors]

    def seeded(self, seed: int) -> "Recipe":
        """The same with another seed for VAE, priors, critic and what is trained through the base."""
        vae = replace(self.vae, loop=replace(self.vae.loop, seed=seed))
        priors = tuple(replace(p, loop=replace(p.loop, seed=seed)) for p in self.priors)
        critic = replace(self.refine.critic, seed=seed)
        refine = replace(self.refine, critic=critic, loop=replace(self.refine.loop, seed=seed))
        redraw = replace(self.redraw, loop=replace(self.redraw.loop, seed=seed))
        through = replace(self.end_to_end.through, loop=replace(self.end_to_end.through.loop, seed=seed))
        last = replace(self.end_to_end, through=through)
        return replace(self, vae=vae, priors=priors, refine=refine, redraw=redraw, end_to_end=last)

    def with_end_to_end_steps(self, steps: int) -> "Recipe":
        """The same with another length of the training end to end."""
        through = self.end_to_end.through
        through = replace(through, loop=replace(through.loop, steps=steps))
        return replace(self, end_to_end=replace(self.end_to_end, through=through))

    def fitted_to(self, zoo: Zoo) -> "Recipe":
        """The same with the settings that it leaves to the zoo, and no more components than a pilot's LoRAs span."""
        fitted = self.fit_to_zoo(self, zoo) if self.fit_to_zoo else self
        return fitted.spanned_by(zoo) if is_pilot_alone(zoo.recipe) else fitted

    def spanned_by(self, zoo: Zoo) -> "Recipe":
        """The same with no more components of the VAE than the zoo's LoRAs span."""
        spanned = sum(item.split == "train" for item in zoo.items) - 1  # the mean is taken off
        components = max(1, min(self.vae.num_components, spanned))
        vae = replace(self.vae, num_components=components, latent_dim=min(self.vae.latent_dim, components))
        return replace(self, vae=vae)

    def check_layout(self, layout: Layout) -> None:
        """Refuse a zoo's layout of another family or other modules. Any rank will do.

        Raises:
            ZooError: it is such a layout.
        """
        if self.family not in ("", layout.base):
            raise ZooError(
                f"expected a zoo of family {self.family!r} for recipe {self.name!r}, got one of {layout.base!r}; choose the "
                "recipe of that family"
            )
        if self.layout and (differences := Layout.preset(self.layout).diff(layout.of_rank(1))):
            raise ZooError(
                f"expected a zoo of layout {self.layout!r} for recipe {self.name!r}, got one in which {differences[0]}; import "
                f"it with --layout {self.layout}, or train the recipe 'imported', which takes any"
            )
