"""What a recipe is: the settings of every stage from zoo to synthesizer."""

from dataclasses import dataclass, field, replace

from lorasynth.canonical.canonicalizer import Gauge
from lorasynth.prior.training import PriorConfig
from lorasynth.refining import RefineConfig
from lorasynth.training import LoopConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.zoo.adapt import FINE_TUNING, AdaptConfig
from lorasynth.zoo.build import ZooConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One full configuration."""

    name: str
    zoo: ZooConfig = field(default_factory=ZooConfig)
    gauge: Gauge = "anchored"
    vae: VAEConfig = field(default_factory=VAEConfig)
    priors: tuple[PriorConfig, ...] = (PriorConfig(conditioning="adalora"), PriorConfig(conditioning="adanorm"))
    regression: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=2_000, learning_rate=1e-3, weight_decay=3.0)
    )
    kernel_lambda: float = 0.1
    refine: RefineConfig = field(default_factory=RefineConfig)  # of each prior by itself, and the critic
    end_to_end: RefineConfig = field(  # then, of all priors and the VAE's decoder
        default_factory=lambda: RefineConfig(identity_weight=2.0, loop=replace(RefineConfig().loop, learning_rate=1e-3))
    )
    tune_people: int = 24  # validation people that scales and sampler settings are chosen on
    fine_tuning: AdaptConfig = FINE_TUNING  # the LoRA that a synthesised one is compared with

    def seeded(self, seed: int) -> "Recipe":
        """The same with another seed for VAE, priors and critic."""
        vae = replace(self.vae, loop=replace(self.vae.loop, seed=seed))
        priors = tuple(replace(p, loop=replace(p.loop, seed=seed)) for p in self.priors)
        critic = replace(self.refine.critic, seed=seed)
        refine = replace(self.refine, critic=critic, loop=replace(self.refine.loop, seed=seed))
        end_to_end = replace(self.end_to_end, loop=replace(self.end_to_end.loop, seed=seed))
        return replace(self, vae=vae, priors=priors, refine=refine, end_to_end=end_to_end)
