"""The critic: a third recogniser, which looks at latents and is neither of the two that score."""

import torch
from jaxtyping import Float
from torch import Tensor

from lorasynth.refining.config import RefineConfig
from lorasynth.worlds.recogniser import LatentNet
from lorasynth.worlds.recogniser_training import degrade, train_recogniser
from lorasynth.worlds.subjects import Role, persons_of
from lorasynth.worlds.world import World


def latent_net(world: World) -> LatentNet:
    """An untrained critic for a world's latents."""
    channels, size, _ = world.base.latent_shape
    return LatentNet(channels, size=size)


def train_critic(world: World, config: RefineConfig) -> LatentNet:
    """A recogniser of the base model's latents, on people that the encoder has not learned from; frozen."""

    def see(pictures: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B C h w"]:
        latents = world.base.encode(degrade(pictures, generator))
        loud = config.critic_noise * torch.rand(len(latents), 1, 1, 1, generator=generator)
        return latents + loud * torch.randn(latents.shape, generator=generator)

    torch.manual_seed(config.critic.seed)
    net = latent_net(world)
    persons = persons_of(Role.CRITIC, config.critic_people)
    train_recogniser(world.draw, persons, config.critic, net=net, see=see, size=world.picture_size)
    return net.requires_grad_(False)
