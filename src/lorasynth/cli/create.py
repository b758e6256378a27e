"""Verbs for who uses what is shipped: demo, synthesize, render, doctor."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasynth.cli.common import (
    Device,
    Force,
    Format,
    Json,
    Seed,
    check_folder,
    check_json,
    check_lora,
    emit,
    say,
    setup,
)
from lorasynth.errors import ConsentError, ModelError, UsageError


class Consent(StrEnum):
    """Whose consent there is to make a LoRA of the person in the photo."""

    self = "self"
    subject = "subject"
    synthetic = "synthetic"


Out = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]


def demo(
    person: Annotated[int, typer.Option(help="Any number below 10000 is another person that nobody has seen.")] = 7,
    out: Annotated[Path, typer.Option(help="Folder for photo.png, lora.safetensors, report.png, report.json.")] = Path(
        "out/demo"
    ),
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Allow people that training has seen.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Synthesizer of drawn people: a folder or a world; the shipped one by default.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
) -> None:
    """The main job on the embedded default: a drawn portrait, a LoRA from it, new pictures.

    Example: lorasynth demo --person 12 --out out/demo
    """
    check_folder(out)
    from lorasynth.demo import OUTPUTS, check_person, run_demo
    from lorasynth.synthesizer import DEFAULT_MODEL

    check_json(json, *(out / name for name in OUTPUTS), force=force)
    check_person(person, allow_seen=allow_seen)
    setup(device)
    record = run_demo(
        out, model or DEFAULT_MODEL, person=person, seed=seed, allow_seen=allow_seen, force=force, report=say
    )
    say(f"look at {out / 'report.png'}")
    emit(record, json)


def synthesize(
    photos: Annotated[list[Path] | None, typer.Argument(help="One or several photos of one person.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Many people instead: a table with columns person and photo, or a folder with a folder for each."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --table: the folder to write, a file for each.")
    ] = None,
    consent: Annotated[
        Consent | None, typer.Option(help="Whose consent there is: it is your face, theirs is given, or nobody's face.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Synthesizer: a folder, a drawn world or a hub id; the shipped one by default.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Of a model of a real base: the encoder that it was made with; the shipped model has its own."
        ),
    ] = None,
    embedding: Annotated[
        Path | None, typer.Option(help="A .npy or .safetensors file of one embedding, in place of photos and encoder.")
    ] = None,
    format: Annotated[Format, typer.Option(help="kohya is read by every tool.")] = Format.kohya,
    prior: Annotated[str | None, typer.Option(help="Which prior of the model, e.g. adalora or ridge.")] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=20,
            help="Of the subject, in place of the model's own: more is more alike and shows less of what is asked for.",
        ),
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance of the prior.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps of the prior.")] = None,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Use photos that do not look like the model's world.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
) -> None:
    """Photos of one person, or their embedding -> a LoRA file. With --table: of many people, a file each.

    Example: lorasynth synthesize me.png -o me.safetensors --consent self
    """
    if consent is None:
        raise ConsentError(
            "expected --consent self (it is your face), subject (the person agreed) or synthetic (nobody's face), got none"
        )
    chosen: dict[str, Any] = {"scale": scale, "guidance_scale": guidance_scale, "num_inference_steps": steps}
    settings = {k: v for k, v in chosen.items() if v is not None} | {"seed": seed, "prior": prior}
    marks = {"lorasynth.consent": consent.value}
    if out is not None:
        check_folder(out)
    if table is not None:
        if photos or embedding or output or out is None:
            raise UsageError(
                "expected --table with --out FOLDER, and neither photos, --embedding nor --output; leave them out"
            )
        settings["allow_outside"] = allow_outside
        record = _synthesize_many(table, out, model, encoder, settings, format, marks, device, json, force)
        emit(record, json)
        if record["failed"] and record["failed"] == record["people"]:
            raise UsageError(
                f"{out}: expected photos of which a LoRA can be made, got none; report.jsonl says why of each"
            )
        return
    if output is None or out is not None:
        raise UsageError("expected --output FILE for one person (--out FOLDER goes with --table); give it")
    if bool(photos) == (embedding is not None):
        raise UsageError("expected photos, or --embedding FILE in place of them; give one of the two")
    if embedding is not None and encoder is not None:
        raise UsageError("expected --encoder with photos, got it with --embedding, which needs none; leave one out")
    from lorasynth.encoders.embeddings import read_embedding
    from lorasynth.encoders.images import open_photo

    check_json(json, output, *(photos or []), *([embedding] if embedding else []), force=force)
    check_lora(output, format, force=force)
    for photo in photos or []:
        open_photo(photo)  # before anything heavy: a bad photo fails at once
    vector = None if embedding is None else read_embedding(embedding)
    setup(device)
    import torch

    from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer

    synthesizer = Synthesizer.from_pretrained(DEFAULT_MODEL if model is None else model, encoder=encoder)
    if vector is not None:
        lora = synthesizer.from_embedding(vector, **settings)
    else:
        lora = synthesizer(photos or [], allow_outside=allow_outside, **settings)
    for remark in (*synthesizer.last_notes, *synthesizer.last_warnings):
        say(remark)
    if said := synthesizer.shortcoming:
        say(f"warning: {said}")
    lora.save(output, format.value, torch.float16, marks, force=force)
    source = "an embedding" if vector is not None else f"{len(photos or [])} photo(s)"
    say(f"{output}: {lora.layout.num_parameters} parameters from {source}")
    seconds = synthesizer.last_seconds
    emit({"output": str(output), "format": format.value, "seconds": seconds, "norm": lora.norm(), "seed": seed}, json)


def _synthesize_many(
    table: Path,
    out: Path,
    model: str | None,
    encoder: str | None,
    settings: dict[str, Any],
    format: Format,
    marks: dict[str, str],
    device: str,
    json: Path | None,
    force: bool,
) -> dict[str, Any]:
    """A folder of LoRAs, one for each person of a table or folder. The record to emit."""
    if format == Format.peft:
        raise UsageError(
            "expected --format kohya or diffusers with --table, got peft, which is a folder for each person"
        )
    check_json(json, table, out, force=force)
    setup(device)
    from lorasynth.many import people_of_folder, people_of_table, synthesize_people
    from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer

    people = people_of_folder(table) if table.is_dir() else people_of_table(table, say)
    synthesizer = Synthesizer.from_pretrained(model or DEFAULT_MODEL, encoder=encoder)
    if said := synthesizer.shortcoming:
        say(f"warning: {said}")
    counts = synthesize_people(
        synthesizer, people, out, settings=settings, format=format.value, metadata=marks, force=force, report=say
    )
    say(f"{out}: {counts.made} made, {counts.kept} kept, {counts.failed} failed")
    return {"out": str(out), "people": len(people), "made": counts.made, "kept": counts.kept, "failed": counts.failed}


def render(
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="What to draw; say 'sks person' for the subject.")
    ],
    output: Out,
    lora: Annotated[Path | None, typer.Option(help="A LoRA file; without one the base model draws.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A drawn world's name, a pipeline's folder or hub id, or a .safetensors checkpoint; by default the drawn world "
            "that the LoRA file names, or portraits128."
        ),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, max=64, help="Pictures of each prompt.")] = 4,
    scale: Annotated[float, typer.Option(help="Strength of the LoRA.", min=-10, max=10)] = 1.0,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=50,
            help="By default the usual one of the base's family: 7.5 for Stable Diffusion 1.5, 2 for a drawn world.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    force: Force = False,
) -> None:
    """A sheet of pictures with a LoRA, drawn by plain diffusers: a row a prompt.

    Example: lorasynth render --lora me.safetensors -p "a photo of sks person, smiling" -o me.png
    """
    from lorasynth.storage.files import write_png
    from lorasynth.storage.outputs import require_new_output

    require_new_output(output, force=force, suffix=".png")
    check_json(json, output, *([lora] if lora else []), force=force)
    setup(device)
    import torch

    from lorasynth.base.sampling import guidance_of
    from lorasynth.evaluate.grid import sheet
    from lorasynth.lora.factors import LoRA
    from lorasynth.opening import open_base
    from lorasynth.storage.faults import FaultyFileError
    from lorasynth.worlds.world import DEFAULT_WORLD, WORLDS

    loaded = None
    try:
        loaded = None if lora is None else LoRA.load(lora)  # before anything heavy: a bad file fails at once
    except FaultyFileError as error:
        if error.code != "base":  # whether it is for the base at hand, the base says
            raise
    made_for = loaded.layout.base if loaded is not None and loaded.layout.base in WORLDS else None
    opened = open_base(base or made_for or DEFAULT_WORLD)
    if made_for is not None and made_for != opened.family and opened.family in WORLDS:  # whose modules may be as large
        raise UsageError(
            f"{lora}: expected a LoRA for the base of {opened.family!r}, got one for that of {made_for!r}; "
            f"give --base {made_for}, or leave --base out"
        )
    if lora is not None:
        (loaded or LoRA.load(lora, like=opened.layout(1))).scaled(scale).attach(opened.denoiser)
    guidance = guidance_of(opened, guidance_scale)
    rows = []
    for text in prompt:
        generators = [torch.Generator().manual_seed(seed + i) for i in range(num_images)]
        call = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generators}
        rows.append(opened.pipe([text] * num_images, output_type="pt", **call).images.float())
    write_png(output, sheet(rows, [""] * len(rows), zoom=max(1, 256 // rows[0].shape[-1]), margin=4))
    record = {"prompts": prompt, "num_images": num_images, "seed": seed, "guidance_scale": guidance}
    emit({"output": str(output)} | record, json)


def doctor(json: Json = None, force: Force = False) -> None:
    """Versions, shipped weights and their checksums, a self-test of a few seconds, and estimates for recipes on an 80 GB GPU.

    Example: lorasynth doctor
    """
    check_json(json, force=force)
    setup()
    from lorasynth.demo import versions
    from lorasynth.doctor import check_assets, self_test
    from lorasynth.recipes.estimate import ABOUT, estimates

    faults = check_assets()
    record: dict[str, Any] = {"versions": versions(), "assets": faults or "all checksums agree"}
    if not faults:
        record["self_test"] = self_test()
    emit(record | {"estimates_on_80_gb": estimates(), "about_the_estimates": ABOUT}, json)
    if faults:
        raise ModelError(f"{len(faults)} shipped files are not as released ({faults[0]}); install lorasynth again")
