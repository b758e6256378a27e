"""What a diffusion prior has to beat: nearest neighbour, mean, ridge and an MLP, with its signature.

Each predicts a target (a latent, or coefficients of the VAE's stem) for an embedding. ``seed`` is accepted and unused.
"""

from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.storage.files import write_tensors
from lorasynth.storage.schema import dimensions, one_of
from lorasynth.storage.tensorfile import TensorFile
from lorasynth.storage.weights import large_tables, pack, packed_shapes, read_packed, unpack
from lorasynth.training import LoopConfig, train

_ROWS = 4_096  # people whose numbers are in float64 at once


class Baseline(nn.Module):
    """A predictor with no noise in it."""

    TENSORS: ClassVar[dict[str, str]]
    """Name -> shape of each tensor of its state: N people, D embedding, Z target."""

    def predict(self, embedding: Float[Tensor, "B D"], *, seed: int = 0) -> Float[Tensor, "B Z"]:
        """The target of each row."""
        with torch.no_grad():
            return self(embedding)

    def save(self, path: str | Path) -> None:
        """Write the weights in fp16, large tables in int8."""
        state = self.state_dict()
        write_tensors(path, pack(state, large_tables(state)), {"kind": type(self).__name__})

    @staticmethod
    def load(path: str | Path) -> "Baseline":
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing or of another kind.
        """
        with TensorFile(path) as file:
            kind = KINDS[file.said({"kind": one_of(*KINDS)})["kind"]]
            dimensions(packed_shapes(file), kind.TENSORS)
            return kind.from_tensors(read_packed(file)).eval()

    @property
    def sizes(self) -> tuple[int, int | None]:
        """Z of its targets, and D of the embeddings it takes. None where it takes any."""
        found = dimensions({name: tuple(t.shape) for name, t in self.state_dict().items()}, self.TENSORS)
        return found["Z"], found.get("D")

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Baseline":
        """The predictor with these weights."""
        raise TypeError(f"{cls.__name__} cannot be loaded by itself")


class MeanPrior(Baseline):
    """The zoo's mean for everybody."""

    TENSORS: ClassVar = {"mean": "Z"}

    def __init__(self, target: Float[Tensor, "N Z"]):
        super().__init__()
        self.register_buffer("mean", target.mean(0))

    mean: Tensor

    def forward(self, embedding: Tensor) -> Tensor:
        """The mean, once a row."""
        return self.mean.expand(len(embedding), -1)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "MeanPrior":
        """The predictor with these weights."""
        return cls(tensors["mean"][None])


class NearestPrior(Baseline):
    """The LoRA of the zoo's person whose embedding is nearest."""

    TENSORS: ClassVar = {"embedding": "N D", "target": "N Z"}

    def __init__(self, embedding: Float[Tensor, "N D"], target: Float[Tensor, "N Z"]):
        super().__init__()
        self.register_buffer("embedding", embedding)
        self.register_buffer("target", target)

    embedding: Tensor
    target: Tensor

    def forward(self, embedding: Tensor) -> Tensor:
        """The neighbour's target."""
        return self.target[(embedding @ self.embedding.T).argmax(1)]

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "NearestPrior":
        """The predictor with these weights."""
        return cls(tensors["embedding"], tensors["target"])


class RidgePrior(Baseline):
    """Ridge regression. It regresses to the mean, so give it a ``scale`` above 1 in the synthesizer."""

    TENSORS: ClassVar = {"weight": "Z D", "bias": "Z"}

    def __init__(self, weight: Float[Tensor, "Z D"], bias: Float[Tensor, " Z"]):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    @classmethod
    def fit(cls, embedding: Float[Tensor, "N D"], target: Float[Tensor, "N Z"], lam: float) -> "RidgePrior":
        """Closed form. ``lam`` is relative to the mean variance of an embedding's entries times N."""
        x_mean, y_mean = embedding.mean(0), target.mean(0)
        gram = embedding.new_zeros(embedding.shape[1], embedding.shape[1], dtype=torch.float64)
        cross = embedding.new_zeros(embedding.shape[1], target.shape[1], dtype=torch.float64)
        # Some rows at a time: of a large zoo, float64 copies of all would be the most memory that is taken.
        for x, y in zip(embedding.split(_ROWS), target.split(_ROWS), strict=True):
            x, y = (x - x_mean).double(), (y - y_mean).double()
            gram.addmm_(x.T, x)
            cross.addmm_(x.T, y)
        gram += lam * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, cross).T.float()
        return cls(weight, y_mean - weight @ x_mean)

    def forward(self, embedding: Tensor) -> Tensor:
        """The prediction."""
        return embedding @ self.weight.T + self.bias

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "RidgePrior":
        """The predictor with these weights."""
        return cls(tensors["weight"], tensors["bias"])


class KernelPrior(Baseline):
    """Kernel ridge regression with a Gaussian kernel on the sphere of embeddings: ridge that can bend.

    ``k(a, b) = exp((a·b - 1) / width²)``, which for unit vectors is the usual Gaussian of their distance.
    """

    TENSORS: ClassVar = {"support": "N D", "alpha": "N Z", "bias": "Z", "width": ""}

    def __init__(
        self, support: Float[Tensor, "N D"], alpha: Float[Tensor, "N Z"], bias: Float[Tensor, " Z"], width: float
    ):
        super().__init__()
        self.register_buffer("support", support)
        self.register_buffer("alpha", alpha)
        self.register_buffer("bias", bias)
        self.register_buffer("width", torch.tensor(float(width)))

    support: Tensor
    alpha: Tensor
    bias: Tensor
    width: Tensor

    @classmethod
    def fit(
        cls, embedding: Float[Tensor, "N D"], target: Float[Tensor, "N Z"], lam: float, width: float = 0.8
    ) -> "KernelPrior":
        """Closed form.

        Args:
            embedding: one unit vector a person.
            target: their latents.
            lam: regularisation; the kernel of an embedding with itself is 1.
            width: of the kernel.
        """
        whole = {"support": embedding}
        support = unpack(pack(whole, large_tables(whole)))["support"].float()  # as the file will have it
        kernel = cls(support, target, target.mean(0), width).kernel(support).double()
        kernel += lam * torch.eye(len(kernel), dtype=kernel.dtype)
        alpha = torch.linalg.solve(kernel, (target - target.mean(0)).double())
        return cls(support, alpha.float(), target.mean(0), width)

    def kernel(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B N"]:
        """Likeness of embeddings to those of the training people."""
        return torch.exp((embedding @ self.support.T - 1) / self.width.square())

    def forward(self, embedding: Tensor) -> Tensor:
        """The prediction."""
        return self.kernel(embedding) @ self.alpha + self.bias

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "KernelPrior":
        """The predictor with these weights."""
        return cls(tensors["support"], tensors["alpha"], tensors["bias"], float(tensors["width"]))


class RegressionPrior(Baseline):
    """An MLP from embedding to target: the authors' deterministic twin of the diffusion prior."""

    TENSORS: ClassVar = {
        "linear.weight": "Z D", "linear.bias": "Z", "mlp.0.weight": "H D", "mlp.0.bias": "H", "mlp.3.weight": "H H",
        "mlp.3.bias": "H", "mlp.6.weight": "Z H", "mlp.6.bias": "Z",
    }  # fmt: skip

    def __init__(self, embedding_dim: int, target_dim: int, width: int = 256):
        super().__init__()
        self.linear = nn.Linear(embedding_dim, target_dim)
        last = nn.Linear(width, target_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(
            nn.Linear(embedding_dim, width), nn.SiLU(), nn.Dropout(0.2), nn.Linear(width, width), nn.SiLU(),
            nn.Dropout(0.2), last,
        )  # fmt: skip

    def forward(self, embedding: Tensor) -> Tensor:
        """The prediction."""
        return self.linear(embedding) + self.mlp(embedding * embedding.shape[1] ** 0.5)

    @classmethod
    def fit(
        cls,
        embeddings: Float[Tensor, "N J D"],
        target: Float[Tensor, "N Z"],
        held_embeddings: Float[Tensor, "M J D"],
        held_target: Float[Tensor, "M Z"],
        start: RidgePrior,
        loop: LoopConfig,
    ) -> "RegressionPrior":
        """Train from the ridge solution on randomly chosen photos. Held people choose the best weights."""
        torch.manual_seed(loop.seed)
        net = cls(embeddings.shape[2], target.shape[1])
        with torch.no_grad():
            net.linear.weight.copy_(start.weight)
            net.linear.bias.copy_(start.bias)

        def loss_of(generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(target), (128,), generator=generator)
            photo = torch.randint(embeddings.shape[1], (128,), generator=generator)
            return F.mse_loss(net(embeddings[rows, photo]), target[rows])

        train(
            net,
            loss_of,
            loop,
            validate=lambda: F.mse_loss(net(held_embeddings[:, 0]), held_target).item(),
            label="regression",
        )
        return net

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "RegressionPrior":
        """The predictor with these weights."""
        net = cls(
            tensors["linear.weight"].shape[1], tensors["linear.weight"].shape[0], tensors["mlp.0.weight"].shape[0]
        )
        net.load_state_dict(tensors)
        return net


BASELINES: dict[str, type[Baseline]] = {
    "nearest": NearestPrior, "mean": MeanPrior, "ridge": RidgePrior, "kernel": KernelPrior,
    "regression": RegressionPrior,
}  # fmt: skip
"""Name -> class."""
KINDS = {kind.__name__: kind for kind in BASELINES.values()}
"""The same by the names that files say."""
