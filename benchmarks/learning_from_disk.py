"""Training from a zoo larger than memory: seconds, resident memory, and a step on rows from disk against one on rows in memory.

    python benchmarks/learning_from_disk.py --sizes 2000 16000 64000 --out out/from-disk --json out/from-disk.json

The zoos are made: LoRAs of weights2weights' layout (99,648 numbers in float16) and unit embeddings of 512 numbers, both linear
in a hidden code. Recipe `sd15_faces`, with fewer steps: what counts is the cost of a step and of a pass, not what is learned.

For each size, every stage in a process of its own:

make    write the zoo, through the zoo's own writer
vae     canonical form and VAE, as `lorasynth train vae` fits them; seconds of each part, and the largest resident memory up to
        its end; what of it is the training's state (weights, gradients, two moments, the average and the best average), and
        what is left without that and the libraries
prior   latents, priors and baselines, as `lorasynth train prior` fits them; the same, of the larger prior
step    a step of the VAE on whole vectors of random rows (`zoo_loss`, AdamW, all weights): rows from files that the system has
        just been told to forget, in turn with canonical vectors in memory; medians of wall and of CPU time

One core. 64,000 LoRAs are 12.8 GB on disk, removed at the end.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from lorasynth.pipeline.workspace import Workspace

DIM, CODE, SHARD, VALIDATION = 512, 96, 500, 256  # numbers of an embedding and of a code; LoRAs of a shard, held back
HELD_IN_MEMORY = 1_024  # rows that a step in memory picks from
BATCH, PAIRS = 128, 15
STATE_COPIES = 6  # of a model's weights that a training holds (`training.state`)


def make(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """A zoo of ``size`` LoRAs: a shared mean, what a code says along random directions, and noise, which rows share in part."""
    from lorasynth.lora.layout import Layout
    from lorasynth.zoo import Zoo

    g = torch.Generator().manual_seed(0)
    layout = Layout.preset("sd15-w2w", rank=1)
    P = layout.num_parameters
    mean, directions = torch.randn(P, generator=g), torch.randn(CODE, P, generator=g) / CODE**0.5
    noise, to_face = torch.randn(1 << 20, generator=g), torch.randn(CODE, DIM, generator=g)
    zoo = Zoo.create(arguments.out / "zoo", layout, {"made": size}, None)
    for start in range(0, size, SHARD):
        persons = list(range(start, min(start + SHARD, size)))
        codes = torch.randn(len(persons), CODE, generator=g)
        begins = torch.randint(len(noise) - P, (len(persons),), generator=g).tolist()
        vectors = torch.stack([noise[begin : begin + P] for begin in begins]).mul_(0.3).add_(mean)
        vectors.addmm_(codes, directions).mul_(0.05)
        faces = torch.nn.functional.normalize(codes @ to_face, dim=1)[:, None]
        splits = ["validation" if person < VALIDATION else "train" for person in persons]
        zoo.append(f"shard-{start // SHARD:05d}", persons, splits, vectors, faces, "made", "CC0-1.0")
    return {"gigabytes": sum(path.stat().st_size for path in zoo.folder.iterdir()) / 1e9}


class Parts:
    """Seconds of a stage's parts, and the largest resident memory up to the end of each."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"imports_MB": peak_megabytes()}

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, measured."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = work(*args, **kwargs)
            self.record[f"{name}_s"] = self.record.get(f"{name}_s", 0) + time.perf_counter() - start
            self.record[f"{name}_MB"] = peak_megabytes()
            return result

        return run

    def told(self, trained: list[int]) -> dict[str, Any]:
        """With the state of the largest of some trainings, given their weights, and what is left without it and the libraries."""
        state = STATE_COPIES * 4 * max(trained) / 2**20
        beyond = peak_megabytes() - self.record["imports_MB"] - state
        return self.record | {"state_MB": state, "beyond_model_MB": beyond}


def vae(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """Canonical form and VAE, as `lorasynth train vae` fits them."""
    from lorasynth.canonical import Canonicalizer
    from lorasynth.pipeline import fitting

    parts, trained, fit_vae = Parts(), [], fitting.fit_vae

    def kept(*args: Any, **kwargs: Any) -> Any:
        model, metrics = fit_vae(*args, **kwargs)
        trained.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
        return model, metrics

    Canonicalizer.fit = parts.timed("canonical form", Canonicalizer.fit)  # type: ignore[method-assign]
    fitting.fit_vae = parts.timed("vae", kept)
    work = _workspace(arguments)
    parts.timed("open", lambda: work.zoo)()
    metrics = fitting.fit_vae_stage(work)
    told = {"vae_steps_s": metrics["seconds"], "steps": arguments.steps, "vae_error": metrics["vae_error"]}
    return parts.told(trained) | told


def prior(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """Latents, priors and baselines, as `lorasynth train prior` fits them."""
    from lorasynth.pipeline import fitting

    parts, trained, fit_prior = Parts(), [], fitting.fit_prior

    def kept(*args: Any, **kwargs: Any) -> Any:
        model, metrics = fit_prior(*args, **kwargs)
        trained.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
        return model, metrics

    fitting.latents_of = parts.timed("latents", fitting.latents_of)
    fitting.fit_prior = parts.timed("priors", kept)
    fitting.fit_baselines = parts.timed("baselines", fitting.fit_baselines)
    fitting.fit_prior_stage(_workspace(arguments))
    return parts.told(trained)


def _workspace(arguments: argparse.Namespace) -> "Workspace":
    from lorasynth.pipeline.workspace import Workspace
    from lorasynth.recipes import get_recipe

    steps, recipe = arguments.steps, get_recipe("sd15_faces")
    short = {"warmup_steps": 5, "validate_every": max(1, steps // 4)}
    priors = tuple(replace(p, loop=replace(p.loop, steps=max(1, steps // 10), **short)) for p in recipe.priors)
    vae = replace(recipe.vae, loop=replace(recipe.vae.loop, steps=steps, **short))
    recipe = replace(recipe, vae=vae, priors=priors, regression=replace(recipe.regression, steps=steps))
    return Workspace(recipe=recipe, folder=arguments.out / "fit", zoo_folder=arguments.out / "zoo")


def step(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """Steps on rows from disk and on rows in memory, in turn."""
    from lorasynth.canonical import Canonicalizer
    from lorasynth.training import Share
    from lorasynth.vae import LoRAVAE, zoo_loss
    from lorasynth.zoo import Zoo

    form = Canonicalizer.load(arguments.out / "fit" / "canonical.safetensors")
    vae = LoRAVAE.load(arguments.out / "fit" / "vae.safetensors").requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-6)
    zoo = Zoo.open(arguments.out / "zoo")
    disk = form.view(zoo.open_rows()[1])
    shards, g = sorted(zoo.folder.glob("shard-*")), torch.Generator().manual_seed(0)
    memory = disk[torch.randperm(size, generator=g)[:HELD_IN_MEMORY]]

    def seconds(source: Any) -> tuple[float, ...]:
        forget(shards)
        rows, times = torch.randint(len(source), (BATCH,), generator=g), [clocks()]
        x = source[rows]
        times.append(clocks())
        optimizer.zero_grad(set_to_none=True)
        zoo_loss(vae, x, 1e-4, Share(g)).backward()
        optimizer.step()
        times.append(clocks())
        return tuple(b - a for until in (times[1], times[2]) for a, b in zip(times[0], until, strict=True))

    pairs = [(seconds(memory), seconds(disk)) for _ in range(PAIRS + 1)][1:]
    record = {}
    for place, name in enumerate(("rows", "rows_cpu", "step", "step_cpu")):
        ours, other = (statistics.median(pair[side][place] for pair in pairs) for side in (1, 0))
        record |= {f"{name}_from_disk_s": ours, f"{name}_in_memory_s": other, f"{name}_ratio": other / ours}
    return record


def clocks() -> tuple[float, float]:
    """Wall and CPU time, in seconds."""
    return time.perf_counter(), time.process_time()


def forget(files: list[Path]) -> None:
    """Tell the system to drop files from its cache."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


STAGES = {"make": make, "vae": vae, "prior": prior, "step": step}


def peak_megabytes() -> float:
    """The largest resident memory so far. Not getrusage's, which begins with that of the process that started this one."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 16_000, 64_000])
    parser.add_argument(
        "--steps", type=int, default=200, help="Of the VAE and of ridge's correction; the priors take a tenth."
    )
    parser.add_argument("--out", type=Path, default=Path("out/from-disk"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage:
        start = time.perf_counter()
        record = STAGES[arguments.stage](arguments, arguments.sizes[0])
        record |= {"seconds": time.perf_counter() - start, "peak_MB": peak_megabytes()}
        (arguments.out / "stage.json").write_text(json.dumps(record))
        return
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise SystemExit(f"{arguments.out}: expected an empty or new folder; choose another or remove it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    records: dict[int, dict[str, Any]] = {}
    for size in arguments.sizes:
        records[size] = {}
        try:
            for stage in STAGES:
                command = [
                    sys.executable,
                    __file__,
                    "--stage",
                    stage,
                    "--sizes",
                    str(size),
                    "--out",
                    str(arguments.out),
                ]
                subprocess.run([*command, "--steps", str(arguments.steps)], check=True)
                records[size][stage] = record = json.loads((arguments.out / "stage.json").read_text())
                figures = ", ".join(f"{name} {value:.4g}" for name, value in record.items())
                print(f"{size:6d} {stage:6s} {figures}", flush=True)
        finally:
            for name in ("zoo", "fit"):
                shutil.rmtree(arguments.out / name, ignore_errors=True)
            (arguments.out / "stage.json").unlink(missing_ok=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
