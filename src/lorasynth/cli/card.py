"""The verb that makes a LoRA, a synthesizer or a zoo ready for the hub: card."""

from pathlib import Path
from typing import Annotated

import typer

from lorasynth.cli.common import Force, Json, check_folder, check_json, emit, say, setup
from lorasynth.errors import UsageError


def card(
    source: Annotated[Path, typer.Argument(help="A LoRA file, or the folder of a synthesizer or a zoo.")],
    out: Annotated[
        Path | None, typer.Option(help="Of a LoRA: the folder to write (README.md, the LoRA, the pictures).")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of a LoRA: as the hub spells it (cc-by-4.0, mit, other).")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Of a LoRA: hub id of the base; by default what the file says.")
    ] = None,
    instance_prompt: Annotated[str | None, typer.Option(help="Of a LoRA: the trigger words [sks person].")] = None,
    picture: Annotated[list[Path] | None, typer.Option(help="Of the gallery; may be given several times.")] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Of each picture, in their order.")] = None,
    json: Json = None,
    force: Force = False,
) -> None:
    """Write a card with a gallery for the Hugging Face hub. Nothing is sent.

    A LoRA becomes a folder with its card, itself and its pictures. The card of a synthesizer or a zoo is in its folder already
    (`zoo`: written if it is not), and gets the pictures.

    Example: lorasynth card me.safetensors --out me --licence other --base-model OWNER/NAME --picture me.png -p "sks person"

    Example: lorasynth card runs/fit/synthesizer --picture me.png -p "a photo of sks person"
    """
    pictures, prompts = picture or [], prompt or []
    if len(pictures) != len(prompts):
        raise UsageError(
            f"expected a --prompt for each --picture, got {len(prompts)} for {len(pictures)}; give the others"
        )
    of_lora = {"--out": out, "--licence": licence, "--base-model": base_model, "--instance-prompt": instance_prompt}
    if source.is_dir():
        if given := [name for name, value in of_lora.items() if value is not None]:
            raise UsageError(f"expected {given[0]} of a LoRA file only, got the folder {source}; leave it out")
        return _decorate(source, pictures, prompts, json, force=force)
    if out is None or licence is None:
        raise UsageError("expected --out and --licence for the card of a LoRA; give both")
    _make(source, out, licence, base_model, instance_prompt or "sks person", pictures, prompts, json, force=force)


def _decorate(folder: Path, pictures: list[Path], prompts: list[str], json: Path | None, *, force: bool) -> None:
    """Give the card in the folder of a synthesizer or a zoo its pictures."""
    check_json(json, folder, force=force)
    setup()
    from lorasynth.encoders.images import open_photo
    from lorasynth.storage.cards import CARD, PICTURES, write_gallery
    from lorasynth.storage.outputs import require_new_output
    from lorasynth.storage.reading import read_text
    from lorasynth.zoo.card import zoo_card
    from lorasynth.zoo.store import Zoo

    is_zoo = (folder / "zoo.json").exists()
    if not is_zoo and not (folder / "config.json").exists():
        raise UsageError(
            f"{folder}: expected the folder of a synthesizer or a zoo, got neither; a LoRA's folder goes through "
            "`lorasynth convert` first"
        )
    if (folder / PICTURES).exists():
        require_new_output(folder / PICTURES / "1.png", force=force)
    opened = [open_photo(path) for path in pictures]
    if is_zoo and not (folder / CARD).exists():
        zoo = Zoo.open(folder)
        card = zoo_card(zoo.layout, zoo.recipe, zoo.items)
    else:
        card = read_text(folder / CARD)
    names = write_gallery(folder, card, opened, prompts, "dataset" if is_zoo else "model")
    say(f"{folder}: look at {CARD}; `push_to_hub` publishes it with its pictures")
    emit({"out": str(folder), "files": [CARD, *names]}, json)


def _make(
    file: Path,
    out: Path,
    licence: str,
    base_model: str | None,
    instance_prompt: str,
    pictures: list[Path],
    prompts: list[str],
    json: Path | None,
    *,
    force: bool,
) -> None:
    """Write a LoRA's folder: card, file, pictures."""
    check_folder(out)
    check_json(json, file, *(out / name for name in ("README.md", file.name)), force=force)
    setup()
    from lorasynth.encoders.images import open_photo
    from lorasynth.lora.card import lora_card
    from lorasynth.lora.factors import LoRA
    from lorasynth.storage.cards import CARD, PICTURES, write_pictures
    from lorasynth.storage.files import write_bytes
    from lorasynth.storage.outputs import make_folder, require_new_output
    from lorasynth.storage.reading import MAX_FILE_MB, read_bytes

    names = [f"{PICTURES}/{number}.png" for number in range(1, len(pictures) + 1)]
    for name in (CARD, file.name, *names):
        if (out / name).parent.is_dir():
            require_new_output(out / name, force=force)
    text = lora_card(
        LoRA.load(file), weight_name=file.name, licence=licence, base_model=base_model, instance_prompt=instance_prompt,
        pictures=list(zip(names, prompts, strict=True)),
    )  # fmt: skip
    opened = [open_photo(path) for path in pictures]  # drawn anew: nothing that a file says of its maker goes along
    content = read_bytes(file, MAX_FILE_MB)
    make_folder(out)
    write_bytes(out / file.name, content)
    write_pictures(out, opened)
    write_bytes(out / CARD, text.encode())
    say(f"{out}: look at {CARD}, then `hf upload OWNER/NAME {out}`")
    emit({"out": str(out), "files": [CARD, file.name, *names]}, json)
