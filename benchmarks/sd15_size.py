"""The whole way at Stable Diffusion 1.5's true size: LoRA files, zoo, synthesizer, LoRA file, a pipeline of 1.07 G weights.

    python benchmarks/sd15_size.py --out out/sd15-size --json out/sd15-size.json

No weights of SD1.5 are at hand, so what a real zoo would hold is planted: LoRAs of weights2weights' layout (64 modules, 99,648
numbers) that depend on a hidden code of 16 numbers, in part linearly and in part not, each in a gauge of its own, with noise; and
unit embeddings of 512 numbers that depend on the same code, with noise. What is measured is whether the planted dependence is
recovered on people who were held out, and whether a file that comes out is taken in whole by diffusers, by a pipeline of SD1.5's
shapes with random weights. How pictures look it cannot say.

One core, about 6 minutes of it alone, 5 GB of memory, 0.5 GB of disk, most of which is removed at the end.
"""

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

CODE, BENT, DIM, CHUNK = (
    16,
    16,
    512,
    64,
)  # numbers of a code, of what is not linear in it, of an embedding; items at once
BENT_PART = 0.3  # of the variance of what depends on the code
PHOTO_COSINE = 0.8  # of two noisy embeddings of one code
MODULES = 64

Stage = Callable[[Path, argparse.Namespace], dict[str, Any]]


class Planted:
    """A hidden code's LoRA and embedding. Item n is the same in every process."""

    def __init__(self) -> None:
        from lorasynth.lora.layout import Layout

        g = torch.Generator().manual_seed(1)
        self.layout = Layout.preset("sd15-w2w", rank=1)
        P = self.layout.num_parameters
        self.size = torch.ones(P)  # of a vector's entries: lora_A of norm 1, lora_B of norm 0.1
        for a, b in self.layout.slices.values():
            self.size[a], self.size[b] = (a.stop - a.start) ** -0.5, 0.1 * (b.stop - b.start) ** -0.5
        self.is_B = torch.cat(
            [
                torch.full((s.stop - s.start,), float(i))
                for pair in self.layout.slices.values()
                for i, s in enumerate(pair)
            ]
        )
        self.mean = torch.randn(P, generator=g)
        self.directions = torch.randn(CODE + BENT, P, generator=g) / CODE**0.5
        self.bends = torch.nn.functional.normalize(torch.randn(BENT, CODE, generator=g), dim=1)
        self.to_face = torch.randn(CODE, DIM, generator=g)
        self.bent_to_face = torch.randn(64, DIM, generator=g)
        self.face_bends = torch.randn(64, CODE, generator=g) / CODE**0.5

    def codes(self, items: list[int]) -> torch.Tensor:
        """Hidden codes (n, CODE)."""
        return torch.stack([torch.randn(CODE, generator=torch.Generator().manual_seed(10_000 + n)) for n in items])

    def truth(self, codes: torch.Tensor) -> torch.Tensor:
        """The LoRAs (n, P) that codes mean, without noise and in one gauge.

        lora_A = mean + 0.3 · deviation, lora_B = mean + deviation; a deviation has 0.7 of its variance from the code itself and
        0.3 from sines and squares of directions in it.
        """
        along = codes @ self.bends.T
        sines, squares = (1.5 * along[:, ::2]).sin() / 0.703, (along[:, 1::2].square() - 1) / 2**0.5
        features = torch.cat([(1 - BENT_PART) ** 0.5 * codes, BENT_PART**0.5 * sines, BENT_PART**0.5 * squares], dim=1)
        return (self.mean + torch.where(self.is_B > 0, 1.0, 0.3) * (features @ self.directions)) * self.size

    def noisy(self, items: list[int]) -> torch.Tensor:
        """The LoRAs (n, P) as a training would leave them: with noise, each module at a sign and scale of its own."""
        g = torch.Generator().manual_seed(20_000 + items[0])
        vectors = self.truth(self.codes(items))
        vectors += torch.where(self.is_B > 0, 0.4, 0.2) * self.size * torch.randn(vectors.shape, generator=g)
        for a, b in self.layout.slices.values():
            scale = torch.exp(0.5 * torch.randn(len(items), 1, generator=g)) * (
                torch.randint(2, (len(items), 1), generator=g) * 2 - 1
            )
            vectors[:, a] *= scale
            vectors[:, b] /= scale
        return vectors

    def faces(self, items: list[int]) -> torch.Tensor:
        """Unit embeddings (n, DIM)."""
        g = torch.Generator().manual_seed(30_000 + items[0])
        codes = self.codes(items)
        clean = codes @ self.to_face / CODE**0.5 + (codes @ self.face_bends.T).tanh() @ self.bent_to_face / 8
        noise = (clean.square().mean() * (1 / PHOTO_COSINE - 1)).sqrt()
        return torch.nn.functional.normalize(clean + noise * torch.randn(clean.shape, generator=g), dim=1)


def make(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """LoRA files as kohya writes them, an embedding's file each, and the table that says which belong together."""
    import numpy as np

    from lorasynth.lora.factors import LoRA

    planted, folder = Planted(), out / "loras"
    folder.mkdir(parents=True)
    rows = ["file,person,face"]
    for start in range(0, arguments.items, CHUNK):
        items = list(range(start, min(start + CHUNK, arguments.items)))
        for n, vector, face in zip(items, planted.noisy(items), planted.faces(items), strict=True):
            LoRA(planted.layout, vector).save(folder / f"{n:04d}.safetensors", dtype=torch.float16)
            np.save(folder / f"{n:04d}.npy", face.numpy())
            rows.append(f"{n:04d}.safetensors,{n},{n:04d}.npy")
    (folder / "people.csv").write_text("\n".join(rows) + "\n")
    return {"items": arguments.items, "megabytes": megabytes(folder)}


def bring_in(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`lorasynth zoo import`."""
    files = ["--table", out / "loras" / "people.csv", "--out", out / "zoo", "--json", out / "import.json"]
    parts = ["--licence", "made", "--validation", 0.08, "--held-out", 0.09]
    call("zoo", "import", out / "loras", "--layout", "sd15-w2w", "--rank", 1, *files, *parts)
    from lorasynth.zoo import Zoo

    splits = [item.split for item in Zoo.open(out / "zoo").items]
    return {**{s: splits.count(s) for s in ("train", "validation", "held_out")}, "megabytes": megabytes(out / "zoo")}


def train(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`lorasynth train all sd15_faces_small`; and what `sd15_faces` does, with fewer steps and the small priors."""
    from lorasynth.pipeline.stages import train_all
    from lorasynth.pipeline.workspace import Workspace
    from lorasynth.recipes import get_recipe

    call("train", "all", "sd15_faces_small", "--zoo", out / "zoo", "--out", out / "small", "--json", out / "small.json")
    recipe = get_recipe("sd15_faces")
    short = replace(
        recipe, regression=replace(recipe.regression, steps=500),
        vae=replace(recipe.vae, loop=replace(recipe.vae.loop, steps=500, warmup_steps=50, validate_every=100)),
        priors=get_recipe("sd15_faces_small").priors,
    )  # fmt: skip
    record = train_all(Workspace(recipe=short, folder=out / "fit", zoo_folder=out / "zoo"))
    prior = short.priors[0]
    steps = {"vae_steps": 500, "prior_steps": prior.loop.steps, "prior_width": prior.width, "prior_depth": prior.depth}
    return {**steps, "sd15_faces": record, "sd15_faces_small": json.loads((out / "small.json").read_text())}


def score(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Errors of ΔW on people who were held out: of every prior, and of the planted map itself, which knows their codes."""
    from lorasynth.evaluate.weights import errors_of, evaluate_weights
    from lorasynth.synthesizer import Synthesizer
    from lorasynth.zoo import Zoo

    planted, zoo, scores = Planted(), Zoo.open(out / "zoo"), {}
    people, vectors, _ = zoo.load("held_out")
    for recipe, folder in (("sd15_faces", "fit"), ("sd15_faces_small", "small")):
        model = Synthesizer.from_pretrained(out / folder / "synthesizer")
        with torch.no_grad():
            x = model.canonicalizer.apply(vectors)
            through = model.canonicalizer.invert(model.vae.decode(model.vae.encode(x)[0]))
        scores[recipe] = {
            "latent_dim": model.vae.latent_dim,
            "methods": evaluate_weights(model, zoo)["methods"]
            | {
                "its own LoRA through the VAE": errors_of(model, vectors, through),
                "planted map, no noise": errors_of(model, vectors, planted.truth(planted.codes(people))),
            },
            "settings": model.settings,
        }
    return {"people": len(people), **scores}


def synthesize(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds from an embedding to a LoRA file, after loading, with the trained priors and with those of `sd15_faces`' size."""
    from lorasynth.prior import Denoiser, DiffusionPrior
    from lorasynth.recipes import get_recipe
    from lorasynth.synthesizer import Synthesizer

    start = time.perf_counter()
    model = Synthesizer.from_pretrained(out / "fit" / "synthesizer")
    record: dict[str, Any] = {"load_s": time.perf_counter() - start}
    face = Planted().faces([arguments.items + 1])[0]

    def seconds(prior: str) -> float:
        times = []
        for run in range(6):
            start = time.perf_counter()
            model.from_embedding(face, seed=run, prior=prior, num_inference_steps=8).save(
                out / "me.safetensors", dtype=torch.float16, force=True
            )
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    record["seconds"] = {name: seconds(name) for name in ("adalora", "adanorm", "ridge")}
    record["megabytes"] = {
        "vae": megabytes(out / "fit/synthesizer/vae.safetensors"),
        "canonical": megabytes(out / "fit/synthesizer/canonical.safetensors"),
        "adalora": megabytes(out / "fit/synthesizer/prior.safetensors"),
        "adanorm": megabytes(out / "fit/synthesizer/priors/adanorm.safetensors"),
        "lora": megabytes(out / "me.safetensors"),
    }
    for config in get_recipe("sd15_faces").priors:
        name = f"{config.conditioning} of sd15_faces' size, untrained"
        denoiser = Denoiser(model.vae.latent_dim, DIM, config.width, config.depth, config.conditioning)
        model.priors[name] = DiffusionPrior(denoiser).eval()
        model.priors[name].save(out / "untrained.safetensors")
        record["seconds"][name], record["megabytes"][name] = seconds(name), megabytes(out / "untrained.safetensors")
    return record


def load(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The file in a pipeline of SD1.5's shapes, by diffusers' own loader: each tensor, each update, what the UNet then says."""
    from lorasynth.lora.factors import LoRA
    from lorasynth.synthesizer import Synthesizer
    from lorasynth.zoo import Zoo

    model, zoo = Synthesizer.from_pretrained(out / "fit" / "synthesizer"), Zoo.open(out / "zoo")
    _, _, faces = zoo.load("held_out")
    file = model.from_embedding(faces[0, 0], seed=3).save(out / "held-out.safetensors", dtype=torch.float16)
    lora = LoRA.load(file)
    pipe = full_size_pipeline()
    weights = sum(p.numel() for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters())
    g = torch.Generator().manual_seed(0)
    call = (torch.randn(1, 4, 8, 8, generator=g), 500, torch.randn(1, 77, 768, generator=g))
    with torch.no_grad():
        before = pipe.unet(*call).sample
        pipe.load_lora_weights(out, weight_name=file.name)
        after = pipe.unet(*call).sample
        adapted = {n.removesuffix(".lora_A") for n, m in pipe.unet.named_modules() if n.endswith(".lora_A") and len(m)}
        expected = {m.name for m in lora.layout.modules}
        factors, worst = 0, 0.0
        for name in sorted(expected & adapted):
            layer = pipe.unet.get_submodule(name)
            (adapter,) = layer.active_adapters
            A, B = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            factors += int(torch.equal(A, lora.lora_A(name))) + int(torch.equal(B, lora.lora_B(name)))
            theirs, ours = layer.get_delta_weight(adapter), lora.delta_W(name)
            worst = max(worst, float((theirs - ours).norm() / ours.norm()))
        # The same updates, added to the weights by hand.
        pipe.unload_lora_weights()
        for name in expected:
            pipe.unet.get_submodule(name).weight += lora.delta_W(name)
        by_hand = pipe.unet(*call).sample
    effect = float((after - before).norm() / before.norm())
    difference = float((after - by_hand).norm() / (after - before).norm())
    if adapted != expected or factors != 2 * MODULES or worst > 1e-6 or effect < 1e-4 or difference > 1e-3:
        raise SystemExit(
            f"not applied whole: {len(adapted)} modules, {factors} factors, {worst}, {effect}, {difference}"
        )
    return {
        "weights": weights, "unet_weights": sum(p.numel() for p in pipe.unet.parameters()), "modules": len(adapted),
        "factors_equal": factors, "largest_delta_W_error": worst, "change_of_the_prediction": effect,
        "difference_to_updates_added_by_hand": difference,
    }  # fmt: skip


def full_size_pipeline() -> Any:
    """`StableDiffusionPipeline` in SD1.5's shapes, with random weights in fp32, of its VAE and text encoder too."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from lorasynth.lora.base_models import sd15_unet
    from lorasynth.worlds.base import build_scheduler
    from lorasynth.worlds.text import build_tokenizer

    tokenizer = build_tokenizer(["a", "photo", "of", "sks", "person"])
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(sd15_unet().config)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49_408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
    g = torch.Generator().manual_seed(0)
    for part in (unet, vae, text):
        part.to_empty(device="cpu")
        for parameter in part.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, math.prod(parameter.shape[1:]) ** -0.5, generator=g)
            else:
                parameter.data.fill_(0)
        for name, parameter in part.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.data.fill_(1)
        for buffer in part.buffers():
            buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape))  # CLIP's position numbers
    return StableDiffusionPipeline(
        vae=vae, tokenizer=tokenizer, text_encoder=text.eval(), unet=unet.eval(), scheduler=build_scheduler(),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


STAGES: dict[str, Stage] = {
    "make": make, "import": bring_in, "train": train, "score": score, "synthesize": synthesize, "load": load,
}  # fmt: skip


def call(*words: object) -> None:
    """The command line, in this process."""
    from lorasynth.cli.app import app

    app([str(word) for word in words], standalone_mode=False)


def megabytes(path: Path) -> float:
    """Of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()) / 1e6


def run_stage(name: str, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A stage in a process of its own, with its seconds and its largest resident memory."""
    command = [sys.executable, __file__, "--stage", name, "--out", str(out), "--items", str(arguments.items)]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    record: dict[str, Any] = json.loads((out / f"{name}.stage.json").read_text())
    return {"wall_s": time.perf_counter() - start, **record}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=776)
    parser.add_argument("--out", type=Path, default=Path("out/sd15-size"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="Leave the files there.")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage:
        record = STAGES[arguments.stage](arguments.out, arguments)
        # Not getrusage: its largest size begins with that of the process that started this one.
        peak = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
        record |= {"cpu_s": time.process_time(), "peak_MB": peak}
        (arguments.out / f"{arguments.stage}.stage.json").write_text(json.dumps(record))
        return
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise SystemExit(f"{arguments.out}: expected an empty or new folder; choose another or remove it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        stages = {}
        for name in STAGES:
            stages[name] = run_stage(name, arguments.out, arguments)
            print(f"{name:10s} {stages[name]['wall_s']:6.0f} s  {stages[name]['peak_MB']:6.0f} MB", flush=True)
    finally:
        if not arguments.keep:
            for folder in ("loras", "zoo", "fit", "small"):
                shutil.rmtree(arguments.out / folder, ignore_errors=True)
            (arguments.out / "untrained.safetensors").unlink(missing_ok=True)
    for recipe in ("sd15_faces", "sd15_faces_small"):
        scores = stages["score"][recipe]
        what = f"{recipe}, latent {scores['latent_dim']}, {stages['score']['people']} held-out people"
        print(f"\n{what:58s} ΔW error  explained")
        for name, values in scores["methods"].items():
            print(f"{name:58s} {values['relative_error']:8.3f}  {values['explained']:9.3f}")
    print(json.dumps({k: stages[k] for k in ("synthesize", "load")}, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(stages, indent=2) + "\n")


if __name__ == "__main__":
    main()
