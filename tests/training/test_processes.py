"""Two processes, started by accelerate's own launcher, against one process that trains on the same batches."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F

from lorasynth.errors import UsageError
from lorasynth.training.processes import SINGLE_PROCESS, Processes, launched, require_alone

SCRIPT = """
import sys, time
from dataclasses import replace
from pathlib import Path

import torch

from lorasynth.prior import fit_prior
from lorasynth.prior.training import PriorConfig
from lorasynth.training import LoopConfig, launched
from lorasynth.vae.training import VAEConfig, fit_vae

torch.set_num_threads(1)
out, steps = Path(sys.argv[1]), int(sys.argv[2])
g = torch.Generator().manual_seed(0)
code = torch.randn(80, 6, generator=g)
x = code @ torch.randn(6, 40, generator=g) + 0.1 * torch.randn(80, 40, generator=g)
e = torch.nn.functional.normalize(code @ torch.randn(6, 12, generator=g), dim=1)
rows = {"train_rows": torch.arange(64), "validation_rows": torch.arange(64, 80)}
loop = LoopConfig(steps=steps, learning_rate=2e-3, validate_every=5, checkpoint_every_s=0.0)
with launched() as processes:
    (out / f"started-{processes.rank}").touch()
    vae_config = VAEConfig(stem="principal", num_components=16, latent_dim=8, hidden_dim=32, batch_size=12, loop=loop)
    vae, figures = fit_vae(x, vae_config, **rows, run_dir=out / "vae", processes=processes)
    with torch.no_grad():
        mean, logvar = vae.encode(x)
    config = PriorConfig(width=32, batch_size=12, embedding_noise=0.1, loop=replace(loop, seed=1))
    fit_prior(mean, logvar, e[:, None], config, **rows, run_dir=out / "prior", processes=processes)
"""


def started(tmp_path, name, steps=30, processes=1):
    """The script in a process group of its own, and the folder that it writes to."""
    script, out = tmp_path / "fit.py", tmp_path / name
    script.write_text(SCRIPT)
    out.mkdir(exist_ok=True)
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--mixed_precision", "no"]
    launcher += [
        "--num_machines",
        "1",
        "--num_processes",
        str(processes),
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), str(out), str(steps)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, out


def run(*arguments, **options):
    process, out = started(*arguments, **options)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return out


def curve(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_curves(one, two):
    for part in ("vae", "prior"):
        expected, got = curve(one / part), curve(two / part)
        assert [line["step"] for line in got] == [line["step"] for line in expected]
        assert len(expected) > 5
        for line, other in zip(got, expected, strict=True):
            for key, value in other.items():
                assert line[key] == pytest.approx(value, rel=2e-4), (part, line["step"], key)


@pytest.mark.slow
def test_two_processes_follow_one_even_when_stopped(tmp_path):
    one = run(tmp_path, "one")
    assert curve(one / "vae")[-1]["loss"] < 0.9 * curve(one / "vae")[1]["loss"]
    # Stopped by SIGTERM to the launcher, as a scheduler does it.
    launcher, two = started(tmp_path, "two", processes=2)
    deadline = time.monotonic() + 600
    while not list(two.glob("vae/checkpoint-*/checkpoint.json")):
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(launcher.pid, signal.SIGTERM)
    launcher.communicate(timeout=600)
    assert launcher.returncode != 0
    assert not (two / "prior").exists()
    assert {p.name for p in two.glob("started-*")} == {"started-0", "started-1"}
    assert_same_curves(one, run(tmp_path, "two", processes=2))


def test_shares_are_rows_of_the_batch_with_its_dropout():
    x = torch.randn(12, 5)
    torch.manual_seed(3)
    whole = F.dropout(x, 0.4)
    parts = []
    for rank in range(3):
        processes = Processes(rank, 3)
        (mine,) = processes.share(x)
        torch.manual_seed(3)
        with processes.dropout():
            parts.append(F.dropout(mine, 0.4))
            assert torch.equal(F.dropout(mine, 0.4, training=False), mine)
    assert torch.equal(torch.cat(parts), whole)
    assert (whole == 0).any()


def test_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(UsageError, match="3 processes can share equally, got 128 items"):
        Processes(1, 3).share(torch.zeros(128))


def test_without_a_launcher_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched() as processes:
        assert processes is SINGLE_PROCESS
    require_alone("train all")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="train all: expected to be started once, got 2 processes"):
        require_alone("train all")


def _begin(rank, port, steps, said):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with launched() as processes:
        try:
            processes.require_same("vae at step 0", f"weights {steps[rank]}")
            said.put("same")
        except UsageError as error:
            said.put(str(error))


@pytest.mark.parametrize(
    ("steps", "expected"), [((4, 4), "same"), ((4, 0), "vae at step 0: expected the same weights")]
)
def test_processes_that_do_not_begin_alike_are_refused(steps, expected, unused_port):
    context = torch.multiprocessing.get_context("fork")
    said = context.Queue()
    both = [context.Process(target=_begin, args=(rank, unused_port, steps, said)) for rank in range(2)]
    for process in both:
        process.start()
    answers = [said.get(timeout=600) for _ in both]
    for process in both:
        process.join()
    assert all(answer.startswith(expected) for answer in answers), answers
