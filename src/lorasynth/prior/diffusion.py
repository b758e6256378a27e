"""The conditional diffusion prior on latents, v-prediction by default (Section 3.4)."""

from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lorasynth.devices import noise_on_cpu
from lorasynth.prior.baselines import KINDS, Baseline, RidgePrior
from lorasynth.prior.conditioning import conditioning
from lorasynth.prior.denoiser import Denoiser
from lorasynth.prior.schedule import NUM_TRAIN_TIMESTEPS, CosineDDIM, PredictionType
from lorasynth.storage.files import write_tensors
from lorasynth.storage.schema import digits, dimensions, numbered, one_of, require_shapes, size_of, whole
from lorasynth.storage.tensorfile import TensorFile
from lorasynth.storage.weights import large_tables, pack, packed_shapes, read_packed, without_numbers

_CENTRE = "centre."


class DiffusionPrior(nn.Module):
    """Samples latents for a photo's embedding.

    The process is centred on a guess: with ``mu = centre(embedding)``, what is diffused is ``z - mu`` (differs from the paper,
    which starts from zero). The guess is a regression's, found before training, so the denoiser spends its weights on the
    spread of what the embedding does not say, and on what the regression missed.
    """

    def __init__(
        self, denoiser: Denoiser, centre: Baseline | None = None, prediction_type: PredictionType = "v_prediction"
    ):
        """Put a denoiser around a centre.

        Args:
            denoiser: of latents of Z numbers.
            centre: embeddings -> latents; not trained with the denoiser. Default: zero for everybody, the paper's.
            prediction_type: what the denoiser is trained to say.
        """
        super().__init__()
        self.denoiser = denoiser
        D, Z = denoiser.embedding_dim, denoiser.latent_dim
        self.centre = centre if centre is not None else RidgePrior(torch.zeros(Z, D), torch.zeros(Z))
        self.centre.requires_grad_(False).eval()
        self.register_buffer("spread", torch.ones(denoiser.latent_dim))  # standard deviation of z - mu
        self.prediction_type = prediction_type
        self.schedule = CosineDDIM(prediction_type)

    def train(self, mode: bool = True) -> "DiffusionPrior":
        """Set the mode of the denoiser. The centre has nothing to learn and drops nothing."""
        super().train(mode)
        self.centre.eval()
        return self

    spread: Tensor

    def residual(self, z: Float[Tensor, "B Z"], embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Z"]:
        """Latent -> what is diffused, of unit size."""
        return (z - self.centre(embedding)) / self.spread

    def loss(
        self,
        z: Float[Tensor, "B Z"],
        embedding: Float[Tensor, "B D"],
        dropped: Bool[Tensor, " B"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The loss of a batch at random timesteps, see `loss_at`."""
        return self.loss_at(z, embedding, dropped, *self.draw(z, generator))

    def draw(
        self, z: Float[Tensor, "B Z"], generator: torch.Generator
    ) -> tuple[Int[Tensor, " B"], Float[Tensor, "B Z"]]:
        """Random timesteps and noise for a batch's loss."""
        t = (torch.rand(len(z), generator=generator) * NUM_TRAIN_TIMESTEPS).long()
        return t, torch.randn(z.shape, generator=generator)

    def loss_at(
        self,
        z: Float[Tensor, "B Z"],
        embedding: Float[Tensor, "B D"],
        dropped: Bool[Tensor, " B"],
        t: Int[Tensor, " B"],
        noise: Float[Tensor, "B Z"],
    ) -> Float[Tensor, ""]:
        """The squared error of v (Salimans & Ho, ICLR 2022), or of x or the noise, at given timesteps."""
        x = self.residual(z, embedding)
        predicted = self.denoiser(self.schedule.add_noise(x, noise, t), t, embedding, dropped)
        if self.prediction_type == "v_prediction":
            return F.mse_loss(predicted, self.schedule.velocity(x, noise, t))
        return F.mse_loss(predicted, x if self.prediction_type == "sample" else noise)

    def sample(
        self,
        embedding: Float[Tensor, "B D"],
        *,
        seed: int = 0,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B Z"]:
        """Sample one latent a row. Gradients flow through all steps of the sampler.

        Args:
            embedding: unit vectors.
            seed: of the starting noise, drawn on the CPU.
            guidance_scale: classifier-free guidance; 1 is none.
            num_inference_steps: DDIM steps.
            temperature: standard deviation of the starting noise; 0 gives the one latent the sampler is centred on.
        """
        # 1. Start from noise, at temperature 0 from the centre itself.
        x = temperature * noise_on_cpu(len(embedding), self.denoiser.latent_dim, seed=seed)
        nobody = torch.ones(len(x), dtype=torch.bool)
        for t, before in pairwise([*self.schedule.timesteps(num_inference_steps).tolist(), -1]):
            rows = torch.full((len(x),), t, device=x.device)
            # 2. Denoise, with guidance away from nobody.
            predicted = self.denoiser(x, rows, embedding)
            if guidance_scale != 1:
                without = self.denoiser(x, rows, embedding, nobody)
                predicted = without + guidance_scale * (predicted - without)
            # 3. DDIM step.
            x = self.schedule.step(predicted, t, before, x)
        # 4. Back from unit size around the centre.
        return self.centre(embedding) + x * self.spread

    @torch.no_grad()
    def predict(self, embedding: Float[Tensor, "B D"], **settings: Any) -> Float[Tensor, "B Z"]:
        """`sample`, without gradients: the signature that all priors share."""
        return self.sample(embedding, **settings)

    @property
    def sizes(self) -> tuple[int, int | None]:
        """Z of its latents, and D of the embeddings it takes."""
        return self.denoiser.latent_dim, self.denoiser.embedding_dim

    def save(self, path: str | Path) -> None:
        """Write the weights, large tables in int8 and the rest in fp16, and the shape in the header."""
        d = self.denoiser
        header = {
            "centre": type(self.centre).__name__,
            "conditioning": d.conditioning,
            "width": str(d.enter.out_features),
            "depth": str(len(d.blocks)),
            "prediction_type": self.prediction_type,
        }
        state = self.state_dict()
        write_tensors(path, pack(state, large_tables(state)), header)

    @classmethod
    def load(cls, path: str | Path) -> "DiffusionPrior":
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing or of another kind.
        """
        with TensorFile(path) as file:
            shapes = packed_shapes(file)
            # 1. The sizes, from the shapes that the file's bytes bear out, and what the header says of them.
            latent_dim, embedding_dim = size_of(shapes, "spread", 0), size_of(shapes, "denoiser.nobody", 0)
            width, depth = size_of(shapes, "denoiser.enter.weight", 0), numbered(shapes, "denoiser.blocks.")
            said = file.said({
                "width": digits(whole(width, width)), "depth": digits(whole(depth, depth)), "conditioning": conditioning,
                "centre": one_of(*KINDS), "prediction_type": one_of(None, *get_args(PredictionType)),
            })  # fmt: skip
            # 2. A denoiser of these sizes without numbers, and the shapes of all there is.
            with without_numbers():
                denoiser = Denoiser(latent_dim, embedding_dim, width, depth, said["conditioning"])
            around = KINDS[said["centre"]]
            parts = {name.removeprefix(_CENTRE): shape for name, shape in shapes.items() if name.startswith(_CENTRE)}
            dimensions(parts, around.TENSORS, Z=latent_dim, D=embedding_dim)
            inner = {f"denoiser.{name}": tuple(t.shape) for name, t in denoiser.state_dict().items()}
            outer = {name: shape for name, shape in shapes.items() if not name.startswith(_CENTRE)}
            require_shapes(outer, {**inner, "spread": (latent_dim,)})
            # 3. The numbers.
            tensors = read_packed(file)
            centre = around.from_tensors({name: tensors[_CENTRE + name] for name in parts})
            # Files before 0.2 do not say what is predicted: v was all there was.
            prior = cls(denoiser, centre, said["prediction_type"] or "v_prediction")
            prior.load_state_dict(tensors, assign=True)
        return prior.eval()
