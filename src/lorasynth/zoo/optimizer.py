"""AdamW for the adapters of a bank, each as if it were trained alone: its own rate, clipping and count of steps."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorasynth.errors import UsageError


class BankAdamW:
    """AdamW (Loshchilov & Hutter, ICLR 2019) over parameters whose first dimension counts adapters.

    What torch's AdamW would do to N models of their own, also when they began at different times.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        """Begin at step 0 with all adapters.

        Args:
            parameters: of shape (N, …) each.
            betas: decay of the two running means.
            eps: added to the root of the second.
            weight_decay: as a part of the learning rate.

        Raises:
            UsageError: the parameters are not of equally many adapters, as those of a bank that shares a trained lora_A.
        """
        self.parameters = list(parameters)
        lengths = {len(p) for p in self.parameters}
        if len(lengths) != 1:
            raise UsageError(
                f"expected parameters of equally many adapters, got {sorted(lengths)}; train lora_A 'each'"
            )
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps = torch.zeros(lengths.pop(), dtype=torch.float64)
        self._mean = [torch.zeros_like(p) for p in self.parameters]
        self._square = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, learning_rate: float | Float[Tensor, " N"]) -> None:
        """One step of every adapter, at one learning rate or one each."""
        self.steps += 1
        beta1, beta2 = self.betas
        rate = torch.as_tensor(learning_rate, dtype=torch.float64).expand_as(self.steps)
        size = rate / (1 - beta1**self.steps)  # of the first mean, without its bias
        root = (1 - beta2**self.steps).sqrt()
        for p, mean, square in zip(self.parameters, self._mean, self._square, strict=True):
            assert p.grad is not None
            size_N, root_N, rate_N = (v.to(p.dtype).view(-1, *[1] * (p.dim() - 1)) for v in (size, root, rate))
            mean.lerp_(p.grad, 1 - beta1)
            square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            p.mul_(1 - rate_N * self.weight_decay)
            p.sub_(size_N * mean / (square.sqrt() / root_N + self.eps))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    def restart(self, adapter: int) -> None:
        """One adapter is somebody else's from now on: back to its step 0."""
        self.steps[adapter] = 0
        for state in (*self._mean, *self._square):
            state[adapter] = 0

    def moved(self, parameters: Sequence[nn.Parameter], adapters: list[int]) -> "BankAdamW":
        """The optimizer of a smaller bank that holds some of the adapters."""
        other = BankAdamW(parameters, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)
        other.steps = self.steps[adapters]
        other._mean = [state[adapters] for state in self._mean]
        other._square = [state[adapters] for state in self._square]
        return other


@torch.no_grad()
def clip_each(parameters: Sequence[nn.Parameter], max_norm: float) -> Float[Tensor, " N"]:
    """`torch.nn.utils.clip_grad_norm_` for each adapter of a bank by itself.

    Returns:
        The norms before.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)
    for g in gradients:
        g.mul_(factor.to(g.dtype).view(-1, *[1] * (g.dim() - 1)))
    return norm
