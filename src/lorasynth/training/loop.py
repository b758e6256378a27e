"""The one training loop: a loss function in, the best average weights out, and nothing lost on the way.

Order, noise and dropout are functions of (seed, step), so a run that goes on from its checkpoint ends with the weights of one
that was never stopped. They are equal bit for bit on one machine's CPU.
"""

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lorasynth.errors import UsageError
from lorasynth.storage.files import write_bytes, write_json
from lorasynth.storage.fingerprint import fingerprint
from lorasynth.storage.settings import config_record
from lorasynth.training.checkpoint import load_checkpoint, run_lock
from lorasynth.training.processes import SINGLE_PROCESS, Processes
from lorasynth.training.seeding import DROPOUT_STREAM, local_seed, step_generator
from lorasynth.training.state import TrainingState

MAX_BAD_STEPS = 10  # in a row, with a loss or gradient that is not finite


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a model is optimised: AdamW, cosine learning rate with warm-up, average of the weights."""

    steps: int = 2_000
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    hold: float = 0.0  # part of the training at the full learning rate, before the cosine begins
    weight_decay: float = 0.01
    beta2: float = 0.99
    gradient_clip: float = 1.0
    ema_decay: float = 0.998
    validate_every: int = 100
    checkpoint_every_s: float = 60.0
    seed: int = 0


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """Linear warm-up, the full rate for a while, then half a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = max(0.0, step / config.steps - config.hold) / (1 - config.hold)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    config: LoopConfig,
    *,
    validate: Callable[[], float] | None = None,
    run_dir: Path | None = None,
    config_record: dict[str, Any] | None = None,
    label: str = "training",
    progress: bool = True,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """Train a model in place.

    Args:
        model: its parameters that require gradients are trained, and saved. NOTE: buffers are not saved; they must
            follow from the data and the configuration.
        loss_of: the loss of one batch, drawn by the generator that it is given; of several processes' batch, the loss of this
            one's share.
        config: settings.
        validate: called with the averaged weights in the model, in evaluation mode, before the first step and then
            regularly. The weights with the smallest value are what the model holds in the end; without ``validate``,
            the last average.
        run_dir: where config.json, metrics.jsonl and checkpoints go; a run found there is continued. None: nothing is
            written.
        config_record: all that decides the outcome, as JSON values; a run made with another is refused. Default: what
            ``config`` says.
        label: shown in the progress bar and in messages.
        progress: whether to draw the bar (on stderr).
        processes: that train this model together. The main one draws the bar and writes ``run_dir``; the others only resume
            from it.

    Returns:
        "best_validation", "best_step", "steps" and "seconds" (of this call). The model is left in evaluation mode.

    Raises:
        UsageError: ten steps in a row gave no finite loss, the disk has no room for checkpoints, or processes do not begin
            alike.
        CheckpointError: the run in ``run_dir`` cannot be continued.
        KeyboardInterrupt: after SIGINT; the run was saved first.
        SystemExit: with code 143 after SIGTERM; the run was saved first.
    """
    begun = time.monotonic()
    state = TrainingState(model, weight_decay=config.weight_decay, beta2=config.beta2, ema_decay=config.ema_decay)
    record = config_record or _record_of(config)
    with run_lock(run_dir) if run_dir and processes.is_main else nullcontext(), _stop_signal() as stopped:
        if run_dir and processes.is_main:
            _open_run(run_dir, record, state)
        elif run_dir and (checkpoint := load_checkpoint(run_dir, record, clean=False)):
            state.restore(checkpoint)
        if processes.count > 1:
            alike = fingerprint(*model.state_dict().values(), *state.average.tensors.values())
            processes.require_same(f"{label} at step {state.result.step}", f"{record} {state.result.step} {alike}")
        if not processes.is_main:
            run_dir, progress = None, False
        saved_at = time.monotonic()
        bar = tqdm(total=config.steps, initial=state.result.step, desc=label, disable=not progress, dynamic_ncols=True)
        with bar:
            if state.result.step == 0 and validate is not None:
                _log(state, run_dir, {"step": 0.0, "validation_loss": _validate(model, validate, state)})
            while (step := state.result.step) < config.steps:
                # One step: loss, update, or leave it out.
                model.train()
                with local_seed(step_generator(config.seed + DROPOUT_STREAM, step).initial_seed()), processes.dropout():
                    loss = loss_of(step_generator(config.seed, step))
                learning_rate = learning_rate_at(step, config)
                loss = state.update(loss, learning_rate, config.gradient_clip, processes)
                if state.result.bad_steps >= MAX_BAD_STEPS:
                    raise UsageError(
                        f"{label}: no finite loss in {MAX_BAD_STEPS} steps up to step {step}; lower the learning rate"
                    )
                bar.update()
                # Now and then: the value of the averaged weights.
                done = step + 1 == config.steps
                if (step + 1) % config.validate_every == 0 or done:
                    line = {"step": step + 1.0, "loss": loss.item(), "learning_rate": learning_rate}
                    if validate is not None:
                        line["validation_loss"] = _validate(model, validate, state)
                    _log(state, run_dir, line)
                    bar.set_postfix({k: f"{v:.4g}" for k, v in line.items() if k.endswith("loss")})
                # Now and then, at the end, and when told to stop: a checkpoint.
                signalled = processes.largest(stopped[0] if stopped else 0)
                if run_dir and (done or signalled or time.monotonic() - saved_at > config.checkpoint_every_s):
                    state.save(run_dir, record)
                    saved_at = time.monotonic()
                if signalled:
                    raise KeyboardInterrupt if signalled == signal.SIGINT else SystemExit(128 + signalled)
    state.finish()
    model.eval()
    result = state.result
    return {
        "best_validation": result.best_loss,
        "best_step": float(result.best_step),
        "steps": float(result.step),
        "seconds": time.monotonic() - begun,
    }


# Under another name: `train` has an argument called as the function is.
_record_of = config_record


def _open_run(run_dir: Path, record: dict[str, Any], state: TrainingState) -> None:
    """Check for room, go on from a checkpoint if there is one, and bring the other files in line with it."""
    # Two checkpoints are kept and a third is written before the oldest goes; each has five copies of the weights.
    need = 3 * 5 * sum(p.numel() * p.element_size() for p in state.parameters.values())
    free = shutil.disk_usage(run_dir).free
    if free < need:
        raise UsageError(
            f"{run_dir}: checkpoints need {need / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free; make room there, "
            "or choose another run folder"
        )
    if checkpoint := load_checkpoint(run_dir, record):
        state.restore(checkpoint)
    write_json(run_dir / "config.json", record)
    # Later or torn lines are of steps that will be done again.
    lines = "".join(json.dumps(line) + "\n" for line in state.result.history)
    write_bytes(run_dir / "metrics.jsonl", lines.encode())


def _log(state: TrainingState, run_dir: Path | None, line: dict[str, float]) -> None:
    state.record(line)
    if run_dir:
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


@torch.no_grad()
def _validate(model: nn.Module, validate: Callable[[], float], state: TrainingState) -> float:
    model.eval()
    with state.average.applied():
        return validate()


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM is put into. The second one acts at once, as it would without us."""
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
