"""The main job on the embedded default: a portrait nobody has seen -> a LoRA file -> new pictures, beside a fine-tuned LoRA."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorasynth.encoders.images import to_image
from lorasynth.errors import UsageError
from lorasynth.evaluate.fine_tuned import ONE_PHOTO, fine_tuned_vectors
from lorasynth.evaluate.grid import sheet
from lorasynth.evaluate.identity import embed_pictures, similarity
from lorasynth.evaluate.pictures import fine_tuning_recipe
from lorasynth.gallery import Split
from lorasynth.model_folder import find_synthesizer
from lorasynth.storage.faults import printable
from lorasynth.storage.files import write_json, write_png
from lorasynth.storage.outputs import make_folder, require_new_output
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer
from lorasynth.version import __version__
from lorasynth.worlds.subjects import GIVEN_PHOTO, REAL_FROM, role_of, split_of
from lorasynth.worlds.world import WORLDS, World, get_world

OUTPUTS = ("photo.png", "lora.safetensors", "report.png", "report.json")
_GUIDANCE = 2.0  # of the sampler, as where pictures are scored
_ROWS = {
    "base": "base model",
    "zero_shot": "zero-shot LoRA\n(ours)",
    "fine_tuned_one_photo": "fine-tuned LoRA\n(the photo alone)",
    "fine_tuned": "fine-tuned LoRA\n(10 photos)",
    "real": "other photos\nof the person",
}
"""What is drawn, in the order of the sheet, and how the sheet calls it."""


def check_person(person: int, *, allow_seen: bool) -> None:
    """Refuse a person that some part of the system has learned from."""
    if not 0 <= person < 2**40:
        raise UsageError(f"expected a person number from 0 to 2^40, got {person}")
    role = role_of(person)
    if role is not None and split_of(person) != Split.HELD_OUT and not allow_seen:
        raise UsageError(
            f"person {person} belongs to the {role} people that parts of the system have seen; "
            "choose a number below 10000, or give --allow-seen"
        )


def pipeline_pictures(world: World, lora: Path | None, prompts: list[str], seed: int) -> Tensor:
    """Pictures by plain diffusers: the pipeline itself, with the LoRA file loaded as any user would."""
    pipe = world.base.pipe
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    try:
        generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
        pictures = pipe(
            prompts, num_inference_steps=20, guidance_scale=_GUIDANCE, generator=generators, output_type="pt"
        ).images
    finally:
        if lora is not None:
            pipe.unload_lora_weights()
    return pictures.float()


def run_demo(
    out: Path,
    model_name: str | Path = DEFAULT_MODEL,
    *,
    person: int = 7,
    seed: int = 0,
    allow_seen: bool = False,
    force: bool = False,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the demo and write its four files.

    Args:
        out: their folder.
        model_name: a synthesizer of a drawn world's subjects: its folder, that world or a hub id.
        person: of that world.
        seed: of LoRA and pictures.
        allow_seen: people, too, that some part of the system has learned from.
        force: in place of files that are there.
        report: gets a line on each step.

    Returns:
        The record of ``report.json``: person, similarity, similarity2, seconds, versions.

    Raises:
        UsageError: the person is not one to choose, the model is not of a drawn world, or the place cannot be written.
        OutputExistsError: files are there already.
        ModelError: the model cannot be read.
    """
    check_person(person, allow_seen=allow_seen)
    folder = find_synthesizer(model_name)
    model = Synthesizer.from_pretrained(folder)
    if model.base not in WORLDS:
        raise UsageError(
            f"{folder}: expected a synthesizer of a drawn world, got one of {printable(model.base)}; draw with it by synthesize "
            "and render"
        )
    make_folder(out)
    for name in OUTPUTS:
        require_new_output(out / name, force=force)
    world = get_world(model.base)
    subjects = DrawnSubjects(world)
    report(f"drawing person {person}, whom no part of the system has seen")
    photo = world.draw([person], [GIVEN_PHOTO], 256)[0]
    write_png(out / "photo.png", to_image(photo))

    prompts = list(world.prompts)
    world.base  # noqa: B018 (loads the base model, so that no stage is billed for it)
    start = time.perf_counter()
    lora = model(out / "photo.png", seed=seed)
    lora.save(out / "lora.safetensors", dtype=torch.float16, metadata={"lorasynth.consent": "synthetic"}, force=True)
    seconds = {"synthesize": time.perf_counter() - start}
    report(f"synthesised {out / 'lora.safetensors'} in {seconds['synthesize']:.2f} s")

    drawn: dict[str, Tensor] = {}
    for name, photos in (("fine_tuned_one_photo", ONE_PHOTO), ("fine_tuned", 10)):
        report(f"fine-tuning a LoRA the usual way, on {'ten photos' if photos > 1 else 'the photo alone'}")
        start = time.perf_counter()
        tuned = fine_tuned_vectors(
            subjects, lora.layout, [person], fine_tuning_recipe(folder), photos, seed=seed, report=lambda _: None
        )
        seconds[name] = time.perf_counter() - start
        tuned_file = out / ".fine-tuned.safetensors"
        type(lora)(lora.layout, tuned[0]).save(tuned_file, force=True)
        drawn[name] = pipeline_pictures(world, tuned_file, prompts, seed)
        tuned_file.unlink()

    report("rendering with plain diffusers")
    start = time.perf_counter()
    drawn["zero_shot"] = pipeline_pictures(world, out / "lora.safetensors", prompts, seed)
    seconds["render"] = (time.perf_counter() - start) / len(prompts)
    drawn["base"] = pipeline_pictures(world, None, prompts, seed)
    drawn["real"] = world.draw([person] * 4, list(range(REAL_FROM, REAL_FROM + 4)), world.picture_size)
    record: dict[str, Any] = {"person": person}
    for name in subjects.recognisers:
        recogniser, centre = subjects.recogniser(name), subjects.centroids([person], name)
        record[name] = {
            method: similarity(embed_pictures(recogniser, drawn[method][None]), centre).item() for method in _ROWS
        }
    record["seconds"] = seconds
    record["versions"] = versions()
    small = torch.nn.functional.interpolate(photo[None], world.picture_size, mode="area")
    image = sheet(
        [small, *(drawn[method] for method in _ROWS)], ["the photo", *_ROWS.values()],
        [p.replace(", ", "\n") for p in prompts], zoom=max(1, 256 // world.picture_size), margin=120,
    )  # fmt: skip
    write_png(out / "report.png", image)
    write_json(out / "report.json", record)
    return record


def versions() -> dict[str, str]:
    """What ran: this package, its stack, Python."""
    from importlib.metadata import version

    stack = ("torch", "diffusers", "transformers", "peft", "safetensors")
    return {"lorasynth": __version__, "python": platform.python_version(), **{name: version(name) for name in stack}}
