"""The weight VAE: canonical vectors of F numbers <-> latents of Z numbers (Section 3.3)."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import ZooError
from lorasynth.storage.files import write_tensors
from lorasynth.storage.schema import Misfit, digits, number, numbered, require_shapes, size_of, whole
from lorasynth.storage.tensorfile import TensorFile
from lorasynth.storage.weights import large_tables, pack, packed_shapes, read_packed, without_numbers
from lorasynth.vae.stem import Stem


class _ResidualMLP(nn.Module):
    """A linear map plus a correction by an MLP whose last layer starts at zero."""

    def __init__(self, in_features: int, out_features: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        last = nn.Linear(hidden_dim, out_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(
            nn.Linear(in_features, hidden_dim), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(hidden_dim, hidden_dim), nn.SiLU(), nn.Dropout(dropout), last,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.mlp(x)


class LoRAVAE(nn.Module):
    """A variational autoencoder that starts as the best linear one and learns what is not linear.

    ``x (B, F) → c = V x (B, K) → z (B, Z) → ĉ → x̂ = Vᵀ ĉ``. The stem V holds K directions (`stem.py`).
    Being orthonormal, errors in c are errors in x. Encoder and decoder begin as PCA with whitened latents, which for a few
    thousand LoRAs of ten thousands of numbers is a far better place to begin than random weights (differs from the paper).
    """

    size: Tensor

    def __init__(self, stem: Stem, latent_dim: int, hidden_dim: int = 256, dropout: float = 0.1):
        super().__init__()
        num_components = stem.num_components
        if not 1 <= latent_dim <= num_components:
            raise ZooError(f"expected a latent of 1 to {num_components} numbers (the components), got {latent_dim}")
        self.latent_dim = latent_dim
        self.stem = stem
        self.register_buffer("size", torch.ones(()))  # root mean square of a coefficient
        self.encoder = _ResidualMLP(num_components, latent_dim, hidden_dim, dropout)
        self.logvar = nn.Linear(num_components, latent_dim)
        self.decoder = _ResidualMLP(latent_dim, num_components, hidden_dim, dropout)

    @classmethod
    def from_stem(
        cls,
        x: Float[Tensor, "N F"],
        stem: Stem,
        latent_dim: int,
        hidden_dim: int = 256,
        dropout: float = 0.1,
    ) -> "LoRAVAE":
        """The VAE that is PCA of ``x`` (whose mean is taken to be zero) within a span, before any training.

        Args:
            x: canonical vectors.
            stem: the VAE sees nothing outside the span of its directions.
            latent_dim: Z.
            hidden_dim: of the MLPs.
            dropout: in the MLPs.

        Raises:
            ZooError: a latent of more numbers than the stem has directions.
        """
        return cls.from_coefficients(stem(x), stem, latent_dim, hidden_dim, dropout)[0]

    @classmethod
    def from_coefficients(
        cls,
        c: Float[Tensor, "N K"],
        stem: Stem,
        latent_dim: int,
        hidden_dim: int = 256,
        dropout: float = 0.1,
    ) -> tuple["LoRAVAE", Float[Tensor, "K K"]]:
        """`from_stem`, of vectors that the stem has seen already.

        Returns:
            The VAE, and the matrix by which its coefficients follow from the stem's: ``project(x) = stem(x) @ turn``.

        Raises:
            ZooError: as of `from_stem`.
        """
        variance, rotation = torch.linalg.eigh((c.T @ c / len(c)).double())
        std = variance.flip(0).clamp(min=1e-12).sqrt().float()
        turn = rotation.flip(1).float()
        vae = cls(stem.rotated(turn.T), latent_dim, hidden_dim, dropout)
        with torch.no_grad():
            vae.size.copy_(std.square().mean().sqrt())
            # A direction without variance, as of a LoRA that a zoo has twice, would be whitened without bound.
            relative = (std / vae.size).clamp(min=1e-4)[:latent_dim]
            for linear, weight in ((vae.encoder.linear, 1 / relative), (vae.decoder.linear, relative)):
                linear.weight.zero_()
                linear.bias.zero_()
                linear.weight[range(latent_dim), range(latent_dim)] = weight
            vae.logvar.weight.zero_()
            vae.logvar.bias.fill_(-6.0)
        return vae, turn / vae.size

    def project(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B K"]:
        """Canonical vectors -> coefficients of about unit size."""
        return self.stem(x) / self.size

    def lift(self, c: Float[Tensor, "B K"]) -> Float[Tensor, "B F"]:
        """Coefficients -> canonical vectors."""
        return self.stem.lift(c * self.size)

    def encode_coefficients(self, c: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Coefficients -> mean and log-variance of the posterior."""
        return self.encoder(c), self.logvar(c).clamp(-10, 4)

    def encode(self, x: Float[Tensor, "B F"]) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """Canonical vectors -> mean and log-variance of the posterior."""
        return self.encode_coefficients(self.project(x))

    def decode(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B F"]:
        """Latents -> canonical vectors."""
        return self.lift(self.decoder(z))

    @torch.no_grad()
    def orthonormalize(self) -> None:
        """Make a stem that was trained orthonormal again. `encode` and `decode` stay the same functions."""
        change = self.stem.orthonormalize()
        for layer in (self.encoder.linear, cast(nn.Linear, self.encoder.mlp[0]), self.logvar):
            layer.weight.copy_(layer.weight @ change)
        for layer in (self.decoder.linear, cast(nn.Linear, self.decoder.mlp[-1])):
            layer.weight.copy_(change.T @ layer.weight)
            layer.bias.copy_(layer.bias @ change)

    def save(self, path: str | Path) -> None:
        """Write the weights: int8 for large tables, fp16 for the rest."""
        header = {"dropout": str(self.encoder.mlp[2].p), "hidden_dim": str(self.encoder.mlp[0].out_features)}
        state = self.state_dict()
        tables = {*large_tables(state), *(name for name in state if name.startswith("stem."))}
        write_tensors(path, pack(state, tables), header)

    @classmethod
    def load(cls, path: str | Path) -> "LoRAVAE":
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing or of another kind.
        """
        with TensorFile(path) as file:
            shapes = packed_shapes(file)
            # 1. The sizes, from the shapes that the file's bytes bear out.
            stem = [f"stem.local.{m}" for m in range(numbered(shapes, "stem.local."))]
            local = [size_of(shapes, name, 0) for name in stem], [size_of(shapes, name, 1) for name in stem]
            across, latent_dim = size_of(shapes, "stem.across", 0), size_of(shapes, "logvar.bias", 0)
            hidden_dim = size_of(shapes, "encoder.mlp.0.weight", 0)
            said = file.said({"hidden_dim": digits(whole(hidden_dim, hidden_dim)), "dropout": digits(number(0, 0.99))})
            # 2. A VAE of these sizes without numbers, and its shapes.
            with without_numbers():
                tables = [torch.empty(k, f) for k, f in zip(*local, strict=True)]
                try:
                    vae = cls(
                        Stem(tables, torch.empty(across, sum(local[0]))), latent_dim, hidden_dim, float(said["dropout"])
                    )
                except ZooError as error:
                    raise Misfit("logvar.bias", "no more numbers than components", f"{error}") from None
            require_shapes(shapes, {name: tuple(t.shape) for name, t in vae.state_dict().items()})
            # 3. Its numbers.
            vae.load_state_dict(read_packed(file), assign=True)
        return vae.eval()
