"""The loop against a plain one in PyTorch, and runs that are stopped in every way against one that never was."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lorasynth.errors import CheckpointError, UsageError
from lorasynth.training import LoopConfig, config_record, step_generator, train
from lorasynth.training.loop import MAX_BAD_STEPS, learning_rate_at

CONFIG = LoopConfig(
    steps=16, learning_rate=0.05, warmup_steps=4, ema_decay=0.8, validate_every=5, checkpoint_every_s=-1.0, seed=3
)
TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


class Toy:
    """A small network with dropout that learns a linear map."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.held = torch.randn(16, 3, generator=torch.Generator().manual_seed(9))
        self.steps = 0
        self.stop_at, self.stop = None, None

    def loss_of(self, generator):
        if self.steps == self.stop_at:
            self.stop()
        self.steps += 1
        x = torch.randn(8, 3, generator=generator)
        return F.mse_loss(self.model(x), x @ TRUTH.T)

    def validate(self):
        return F.mse_loss(self.model(self.held), self.held @ TRUTH.T).item()

    def train(self, run_dir=None, config=CONFIG, **options):
        options = {"validate": self.validate, "progress": False} | options
        return train(self.model, self.loss_of, config, run_dir=run_dir, **options)

    def weights(self):
        return {n: p.detach().clone() for n, p in self.model.named_parameters()}


def assert_same_run(one, two):
    (toy_1, result_1), (toy_2, result_2) = one, two
    for name, weight in toy_1.weights().items():
        assert torch.equal(weight, toy_2.weights()[name]), name
    for key in ("best_validation", "best_step", "steps"):
        assert result_1[key] == result_2[key]


def whole_run(run_dir=None):
    toy = Toy()
    return toy, toy.train(run_dir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped: the toy, its result and its folder."""
    run_dir = tmp_path_factory.mktemp("whole")
    return *whole_run(run_dir), run_dir


def crash():
    raise RuntimeError("power cut")


def interrupt():
    signal.raise_signal(signal.SIGINT)


def stopped_run(stop_at, stop, run_dir=None, **options):
    """A run stopped in one of its steps (its first is 0): by an error before that step, or a signal, after it."""
    toy = Toy()
    toy.stop_at, toy.stop = stop_at, stop
    expected, message = (RuntimeError, "power cut") if stop is crash else (KeyboardInterrupt, "^$")
    with pytest.raises(expected, match=message):
        toy.train(run_dir, **options)


# --- One step ---------------------------------------------------------------------------------------------------------


def test_training_is_a_plain_pytorch_loop_of_adamw():
    toy, plain = Toy(), Toy()
    toy.model[2].p = plain.model[2].p = 0.0
    toy.train(validate=None)
    # AdamW by torch's simplest implementation, the schedule by torch's own, the average by its definition.
    optimizer = torch.optim.AdamW(
        plain.model.parameters(), lr=0.05, betas=(0.9, 0.99), weight_decay=0.01, foreach=False, fused=False
    )
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1, (s + 1) / 4) * (1 + math.cos(s * math.pi / 16)) / 2
    )
    average = plain.weights()
    for step in range(16):
        optimizer.zero_grad()
        plain.loss_of(step_generator(3, step)).backward()
        nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()
        decay = min(0.8, (1 + step) / (10 + step))
        average = {n: decay * average[n] + (1 - decay) * p for n, p in plain.weights().items()}
    for name, weight in toy.weights().items():
        torch.testing.assert_close(weight, average[name], rtol=1e-4, atol=1e-5)


def test_after_the_warm_up_the_learning_rate_is_torchs_cosine():
    config = LoopConfig(steps=40, learning_rate=0.3, warmup_steps=10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        part = (step + 1) / 10 if step < 10 else 1
        assert learning_rate_at(step, config) == pytest.approx(part * cosine.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        cosine.step()


def test_held_the_rate_stays_and_the_cosine_fills_what_is_left():
    config = LoopConfig(steps=40, learning_rate=0.3, warmup_steps=1, hold=0.25)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    assert [learning_rate_at(step, config) for step in range(10)] == [0.3] * 10
    for step in range(10, 40):
        assert learning_rate_at(step, config) == pytest.approx(cosine.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        cosine.step()


def test_frozen_weights_are_neither_changed_nor_saved(tmp_path):
    toy = Toy()
    toy.model[0].requires_grad_(False)
    before = toy.weights()
    toy.train(tmp_path)
    after = toy.weights()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["3.weight"], before["3.weight"])
    assert b"model.3.weight" in next(tmp_path.glob("checkpoint-*/state.safetensors")).read_bytes()
    assert b"0.weight" not in next(tmp_path.glob("checkpoint-*/state.safetensors")).read_bytes()


# --- What comes out ---------------------------------------------------------------------------------------------------


def test_best_weights_come_out_not_the_last():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    seen = []

    def validate():
        assert not model.training
        seen.append(abs(model.weight.item() - 0.4))
        return seen[-1]

    # The loss only ever drives the weight up, past 0.4.
    config = LoopConfig(steps=30, learning_rate=0.1, warmup_steps=1, validate_every=3, weight_decay=0.0)
    result = train(model, lambda _: -model.weight.sum(), config, validate=validate, progress=False)
    assert result["best_validation"] == min(seen) < seen[-1]
    assert 0 < result["best_step"] < 30
    assert abs(model.weight.item() - 0.4) == min(seen)
    assert not model.training


def test_training_that_worsens_gives_its_first_weights_back():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    config = LoopConfig(steps=12, learning_rate=0.1, validate_every=4)
    result = train(
        model, lambda _: -model.weight.sum(), config, validate=lambda: model.weight.abs().item(), progress=False
    )
    assert model.weight.item() == 0
    assert (result["best_step"], result["best_validation"]) == (0, 0)


def test_metrics_file_has_losses_at_steps_that_were_asked_for(whole):
    toy, result, run_dir = whole
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 5, 10, 15, 16]
    assert min(line["validation_loss"] for line in lines) == result["best_validation"] == toy.validate()
    assert json.loads((run_dir / "config.json").read_text()) == config_record(CONFIG)


def test_nothing_is_written_without_a_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole_run()
    assert list(tmp_path.iterdir()) == []


def test_torch_random_state_decides_nothing_and_is_left_alone(whole):
    toy = Toy()
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    result = toy.train()
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_run(whole[:2], (toy, result))


def test_another_seed_is_another_training():
    toy, other = Toy(), Toy()
    toy.train()
    other.train(config=replace(CONFIG, seed=4))
    assert not torch.equal(toy.weights()["0.weight"], other.weights()["0.weight"])


def test_training_can_run_in_a_thread(whole):
    results = []
    thread = threading.Thread(target=lambda: results.append(whole_run()))
    thread.start()
    thread.join()
    assert_same_run(whole[:2], results[0])


# --- Stopped and gone on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", range(CONFIG.steps))
@pytest.mark.parametrize("stop", [crash, interrupt])
def test_run_that_was_stopped_ends_with_the_same_bits(tmp_path, whole, stop_at, stop):
    stopped_run(stop_at, stop, tmp_path)
    again = Toy()
    result = again.train(tmp_path)
    assert again.steps == 16 - stop_at - (stop is interrupt)
    toy, whole_result, run_dir = whole
    assert_same_run((toy, whole_result), (again, result))
    for name in ("metrics.jsonl", "config.json"):
        assert (tmp_path / name).read_bytes() == (run_dir / name).read_bytes()


def test_run_that_crashed_does_its_lost_steps_again(tmp_path, whole):
    stopped_run(6, interrupt, tmp_path)
    rarely = replace(CONFIG, checkpoint_every_s=1e9)  # does not decide the outcome: not refused
    stopped_run(4, crash, tmp_path, config=rarely)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15.0, "lo')  # torn
    again = Toy()
    result = again.train(tmp_path, config=rarely)
    assert again.steps == 16 - 7
    assert_same_run(whole[:2], (again, result))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 5, 10, 15, 16]


def test_run_goes_on_from_an_older_checkpoint_if_need_be(tmp_path, whole):
    stopped_run(10, crash, tmp_path)
    state = tmp_path / "checkpoint-00000010/state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    again = Toy()
    with pytest.warns(UserWarning, match="going on from checkpoint-00000009"):
        result = again.train(tmp_path)
    assert again.steps == 16 - 9
    assert_same_run(whole[:2], (again, result))


def test_finished_run_gives_its_weights_again_without_a_step(whole):
    again = Toy()
    assert_same_run(whole[:2], (again, again.train(whole[2])))
    assert again.steps == 0


def test_run_without_validation_goes_on_too(tmp_path):
    one, again = Toy(), Toy()
    result = one.train(validate=None)
    assert math.isinf(result["best_validation"])
    stopped_run(11, crash, tmp_path, validate=None)
    assert_same_run((one, result), (again, again.train(tmp_path, validate=None)))


def test_another_configuration_is_refused_and_spoils_nothing(whole):
    run_dir = whole[2]
    with pytest.raises(CheckpointError, match=r"another configuration \(learning_rate: 0.05 -> 0.1\)"):
        Toy().train(run_dir, config=replace(CONFIG, learning_rate=0.1))
    with pytest.raises(CheckpointError, match=r"another configuration .*width is new: 5"):
        Toy().train(run_dir, config_record=config_record(CONFIG) | {"width": 5})
    again = Toy()
    assert_same_run(whole[:2], (again, again.train(run_dir)))


def test_one_folder_is_for_one_run_at_a_time(tmp_path):
    toy = Toy()
    toy.stop_at, toy.stop = 2, lambda: Toy().train(tmp_path)
    with pytest.raises(CheckpointError, match="in use by process"):
        toy.train(tmp_path)


@pytest.mark.slow
def test_sigterm_saves_the_run_and_exits_with_143(tmp_path):
    code = """
import os, signal, sys, torch
from pathlib import Path
from lorasynth.training import LoopConfig, train
model, steps = torch.nn.Linear(2, 1), []
def loss_of(generator):
    steps.append(1)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return model(torch.randn(4, 2, generator=generator)).square().mean()
train(model, loss_of, LoopConfig(steps=10**9), run_dir=Path(sys.argv[1]), progress=False)
"""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM == 143, done.stderr
    assert done.stderr == ""
    assert json.loads((tmp_path / "checkpoint-00000005/checkpoint.json").read_text())["step"] == 5


def test_handlers_of_signals_are_as_they_were():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole_run()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    stopped_run(2, interrupt)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


# --- Losses that are not finite ---------------------------------------------------------------------------------------


def spoiled(bad, make=lambda loss: loss * torch.nan):
    """A toy whose loss is spoiled at some steps, and the steps at which its weights stood still."""
    toy = Toy()
    honest, still, last = toy.loss_of, [], []

    def loss_of(generator):
        if last and all(torch.equal(w, last[-1][n]) for n, w in toy.weights().items()):
            still.append(toy.steps - 1)
        last.append(toy.weights())
        step, loss = toy.steps, honest(generator)
        return make(loss) if step in bad else loss

    toy.loss_of = loss_of
    return toy, still


@pytest.mark.parametrize(
    "make",
    [
        lambda loss: loss * torch.nan,
        lambda loss: loss + torch.inf,
        lambda loss: loss + (loss - loss.detach()).abs().sqrt(),  # finite, its gradient is not
    ],
)
def test_step_that_is_not_finite_is_left_out(make):
    toy, still = spoiled({3, 4, 9}, make)
    toy.train(validate=None)
    assert still == [3, 4, 9]
    assert all(w.isfinite().all() for w in toy.weights().values())


def test_ten_such_steps_in_a_row_end_the_run_and_nine_do_not():
    assert MAX_BAD_STEPS == 10
    toy, _ = spoiled(set(range(2, 11)))
    toy.train()
    assert toy.steps == 16
    toy, _ = spoiled(set(range(2, 16)))
    with pytest.raises(UsageError, match="toy: no finite loss in 10 steps up to step 11; lower the learning rate"):
        toy.train(label="toy")


def test_bad_steps_are_counted_over_a_stop(tmp_path):
    toy, _ = spoiled(set(range(2, 16)))
    toy.stop_at, toy.stop = 8, crash
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(tmp_path)
    again, _ = spoiled(set(range(16)))
    with pytest.raises(UsageError, match="up to step 11;"):
        again.train(tmp_path)


def test_what_does_not_decide_the_outcome_is_not_in_the_record():
    record = config_record(CONFIG)
    assert record == json.loads(json.dumps(record))
    assert "checkpoint_every_s" not in record
    assert record["seed"] == 3


def test_signal_in_last_step_still_stops_and_run_is_whole(tmp_path, whole):
    toy = Toy()
    toy.stop_at, toy.stop = CONFIG.steps - 1, lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        toy.train(tmp_path)
    again = Toy()
    assert_same_run((again, again.train(tmp_path)), (whole[0], whole[1]))


def test_checkpoint_of_another_model_is_refused(tmp_path):
    Toy().train(tmp_path)
    other = Toy()
    other.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    with pytest.raises(CheckpointError, match=r"step 16: average\.2\.bias: expected a tensor, got nothing"):
        other.train(tmp_path)
