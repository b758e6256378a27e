"""What a recipe is: the settings of every stage from zoo to synthesizer."""

from dataclasses import dataclass, field

from lorasynth.canonical.canonicalizer import Gauge
from lorasynth.prior.training import PriorConfig
from lorasynth.vae.training import VAEConfig
from lorasynth.zoo.build import ZooConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One full configuration."""

    name: str
    zoo: ZooConfig = field(default_factory=ZooConfig)
    gauge: Gauge = "anchored"
    vae: VAEConfig = field(default_factory=VAEConfig)
    priors: tuple[PriorConfig, ...] = (PriorConfig(conditioning="adalora"), PriorConfig(conditioning="adanorm"))
    regression_steps: int = 2_000
