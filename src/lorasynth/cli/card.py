"""The verb that makes a LoRA's folder ready for the hub: card."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Force, Json, check_folder, check_json, emit, say, setup
from lorasynth.errors import UsageError


def card(
    file: Annotated[Path, typer.Argument(help="A LoRA file.")],
    out: Annotated[Path, typer.Option(help="The folder to write: README.md, the LoRA, the pictures.")],
    licence: Annotated[str, typer.Option(help="As the hub spells it: cc-by-4.0, mit, other.")],
    base_model: Annotated[str | None, typer.Option(help="Hub id of the base; by default what the file says.")] = None,
    instance_prompt: Annotated[str, typer.Option(help="The trigger words.")] = "sks person",
    picture: Annotated[list[Path] | None, typer.Option(help="Of the gallery; may be given several times.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Of each picture, in their order.")] = None,
    json: Json = None,
    force: Force = False,
) -> None:
    """Write a LoRA's repository for the Hugging Face hub: a card with a gallery, the file, the pictures. Nothing is sent.

    Example: lorasynth card me.safetensors --out me --licence other --base-model OWNER/NAME --picture me.png -p "sks person"
    """
    pictures, prompts = picture or [], prompt or []
    if len(pictures) != len(prompts):
        raise UsageError(
            f"expected a --prompt for each --picture, got {len(prompts)} for {len(pictures)}; give the others"
        )
    if file.is_dir():
        raise UsageError(f"{file}: expected a LoRA file, got a folder; `lorasynth convert` makes a file of it")
    check_folder(out)
    check_json(json, file, *(out / name for name in ("README.md", file.name)), force=force)
    setup()
    from lorasynth.encoders.images import open_photo
    from lorasynth.lora.card import lora_card
    from lorasynth.lora.factors import LoRA
    from lorasynth.storage.files import write_bytes, write_png
    from lorasynth.storage.outputs import make_folder, require_new_output
    from lorasynth.storage.reading import MAX_FILE_MB, read_bytes

    names = [f"images/{number}.png" for number in range(1, len(pictures) + 1)]
    for name in ("README.md", file.name, *names):
        if (out / name).parent.is_dir():
            require_new_output(out / name, force=force)
    text = lora_card(
        LoRA.load(file), weight_name=file.name, licence=licence, base_model=base_model, instance_prompt=instance_prompt,
        pictures=list(zip(names, prompts, strict=True)),
    )  # fmt: skip
    opened = [open_photo(path) for path in pictures]  # drawn anew: nothing that a file says of its maker goes along
    content = read_bytes(file, MAX_FILE_MB)
    make_folder(out / "images" if names else out)
    write_bytes(out / file.name, content)
    for name, image in zip(names, opened, strict=True):
        write_png(out / name, image)
    write_bytes(out / "README.md", text.encode())
    say(f"{out}: look at README.md, then `hf upload OWNER/NAME {out}`")
    emit({"out": str(out), "files": ["README.md", file.name, *names]}, json)
