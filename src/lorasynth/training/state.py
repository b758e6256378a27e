"""All that changes while a model trains, to and from a checkpoint."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasynth.errors import CheckpointError
from lorasynth.storage.schema import ANYTHING, Misfit, fit, number, record, require_shapes, rows, table, text, whole
from lorasynth.training.checkpoint import Checkpoint, save_checkpoint
from lorasynth.training.ema import ExponentialAverage, copy_into
from lorasynth.training.processes import SINGLE_PROCESS, Processes


@dataclass(kw_only=True)
class LoopResult:
    """What a training leaves besides the weights."""

    step: int = 0  # steps done
    best_step: int = 0  # with the smallest validation loss
    best_loss: float = math.inf
    bad_steps: int = 0  # steps in a row, up to now, that were left out because something was not finite
    history: list[dict[str, float]] = field(default_factory=list)  # the lines of metrics.jsonl


def _loss(value: Any, place: str) -> float | None:
    """The smallest loss so far, null before the first."""
    return None if value is None else float(number(-1e300, 1e300)(value, place))


_STEPS = whole(0, 10**12)
_NUMBERS = record(
    {
        "step": _STEPS, "best_step": _STEPS, "best_loss": _loss, "bad_steps": _STEPS,
        "history": rows(table(text(100), ANYTHING), most=10**6),
    }
)  # fmt: skip
"""A `LoopResult` in a checkpoint."""


class TrainingState:
    """Weights, their average, the best average so far, the optimizer's moments, and the counts.

    Args:
        model: what is trained: all parameters that require gradients.
        weight_decay: of AdamW.
        beta2: of AdamW.
        ema_decay: of the average.
    """

    def __init__(self, model: nn.Module, *, weight_decay: float, beta2: float, ema_decay: float):
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # Fused: two times faster than torch's default on the CPU.
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=(0.9, beta2), weight_decay=weight_decay, fused=True
        )
        self.average = ExponentialAverage(self.parameters, ema_decay)
        self.best = {n: t.clone() for n, t in self.average.tensors.items()}
        self.result = LoopResult()

    def update(
        self, loss: Tensor, learning_rate: float, gradient_clip: float, processes: Processes = SINGLE_PROCESS
    ) -> Tensor:
        """One AdamW step. Gives the mean loss of the processes. Nothing changes where it or its gradient is not finite."""
        self.optimizer.zero_grad()
        loss.backward()
        loss = loss.detach().clone()
        processes.average([loss, *(p.grad for p in self.parameters.values() if p.grad is not None)])
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), gradient_clip)
        finite = bool(torch.isfinite(norm) and torch.isfinite(loss))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self.average.update(self.result.step)
        self.result.bad_steps = 0 if finite else self.result.bad_steps + 1
        self.result.step += 1
        return loss

    def record(self, line: dict[str, float]) -> None:
        """Keep a line of metrics, and the averaged weights if their "validation_loss" is the smallest yet."""
        self.result.history.append(line)
        if line.get("validation_loss", math.inf) < self.result.best_loss:
            self.result.best_loss, self.result.best_step = line["validation_loss"], self.result.step
            self.best = {n: t.clone() for n, t in self.average.tensors.items()}

    def finish(self) -> None:
        """Put the weights to hand out into the model: the best average, or the last one if nothing was validated."""
        copy_into(self.parameters, self.average.tensors if math.isinf(self.result.best_loss) else self.best)

    def save(self, run_dir: Path, run_config: dict[str, Any]) -> None:
        """Write a checkpoint."""
        tensors = {f"model.{n}": p.detach() for n, p in self.parameters.items()}
        tensors |= {f"average.{n}": t for n, t in self.average.tensors.items()}
        tensors |= {f"best.{n}": t for n, t in self.best.items()}
        for n, p in self.parameters.items():
            tensors |= {f"optimizer.{n}.{key}": value for key, value in self.optimizer.state[p].items()}
        numbers = asdict(self.result)
        if math.isinf(self.result.best_loss):
            numbers["best_loss"] = None  # JSON has no infinity
        checkpoint = Checkpoint(step=self.result.step, tensors=tensors, config=run_config, numbers=numbers)
        save_checkpoint(run_dir, checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint.

        Raises:
            CheckpointError: it is of a model with other parameters.
        """
        tensors = checkpoint.tensors
        try:
            numbers = fit(_NUMBERS, checkpoint.numbers, "numbers")
            for kind in ("average", "best"):
                shapes = {n: tuple(t.shape) for n, t in tensors.items() if n.startswith(f"{kind}.")}
                require_shapes(shapes, {f"{kind}.{n}": tuple(p.shape) for n, p in self.parameters.items()})
        except Misfit as error:
            raise CheckpointError(f"step {checkpoint.step}: {error}; choose another run folder") from None
        saved = {n.removeprefix("model."): tuple(t.shape) for n, t in tensors.items() if n.startswith("model.")}
        ours = {n: tuple(p.shape) for n, p in self.parameters.items()}
        if saved != ours:
            name = sorted(n for n in saved.keys() | ours.keys() if saved.get(n) != ours.get(n))[0]
            raise CheckpointError(
                f"step {checkpoint.step}: expected a checkpoint of this model with {name} {ours.get(name)}, got "
                f"{saved.get(name)}; choose another run folder"
            )
        copy_into(self.parameters, {n: tensors[f"model.{n}"] for n in self.parameters})
        states = {}
        for i, (n, p) in enumerate(self.parameters.items()):
            self.average.tensors[n].copy_(tensors[f"average.{n}"])
            self.best[n].copy_(tensors[f"best.{n}"])
            prefix = f"optimizer.{n}."
            state = {k.removeprefix(prefix): t.to(p.device) for k, t in tensors.items() if k.startswith(prefix)}
            if state:
                states[i] = state
        self.optimizer.load_state_dict({"state": states, "param_groups": self.optimizer.state_dict()["param_groups"]})
        if numbers["best_loss"] is None:
            numbers["best_loss"] = math.inf
        self.result = LoopResult(**numbers)
