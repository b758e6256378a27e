"""The verb that scores a model: evaluate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorasynth.cli.common import Device, Force, Json, Seed, check_folder, check_json, emit, say, setup
from lorasynth.cli.options import expanded
from lorasynth.cli.photos import PhotoOptions

if TYPE_CHECKING:
    pass


@expanded
def evaluate(
    photos: PhotoOptions,
    model: Annotated[
        Path | None,
        typer.Argument(help="A synthesizer's folder, a drawn world or a hub id; the shipped one by default."),
    ] = None,
    people: Annotated[int, typer.Option(min=2, max=10_000, help="How many held-out people, at most.")] = 100,
    given: Annotated[
        int, typer.Option("--photos", min=1, max=12, help="How many photos of each person a LoRA is synthesised from.")
    ] = 1,
    scale: Annotated[
        float | None, typer.Option(min=0, max=20, help="Of every prior, in place of the one that was chosen for it.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Which rows, with commas between: base, fine_tuned, fine_tuned_one_photo, and priors' names."
        ),
    ] = None,
    second_encoder: Annotated[
        str | None, typer.Option(help="With --data: another encoder, for a second opinion on the pictures.")
    ] = None,
    everybody: Annotated[
        bool,
        typer.Option(
            "--everybody", help="With --data: score all subjects, since the model has seen none of the folder."
        ),
    ] = False,
    guidance_scale: Annotated[
        float | None, typer.Option(min=1.0, max=30.0, help="Of all pictures; by default the base's usual one.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="Whether pictures show what was asked, by this CLIP model: a folder, or a hub id."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=4096, help="Processes that share the fine-tuning and the drawing, one a core.")
    ] = 1,
    zoo: Annotated[
        Path | None,
        typer.Option(
            help="Score by the weights of this zoo's held-out LoRAs, and draw nothing: where there are no photographs."
        ),
    ] = None,
    trained_on: Annotated[
        Path | None,
        typer.Option(
            help="The zoo that the model learned from: asks whether what it makes are copies of that zoo's LoRAs."
        ),
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Write a picture sheet of all methods to this PNG.")] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write all results to this HTML page: tables, plots, pictures, the model's card, in one file."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Keep fine-tuned LoRAs and what was read of photos here, for the next evaluation."),
    ] = None,
    seed: Seed = 0,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Similarity of pictures on held-out people, of every method the model holds, with bootstrap intervals.

    A drawn world's model is scored on that world's people. Any other is scored on subjects of --data. They are those who
    were held out of the folder that it was trained on, or, with --everybody, all of a folder that it has not seen. With
    --zoo, the error of ΔW instead. With --trained-on, whether LoRAs are copies (with --zoo and --html, that zoo's unless
    another is named).

    Example: lorasynth evaluate --people 100 --html report.html --json scores.json
    """
    from lorasynth.errors import UsageError
    from lorasynth.storage.files import write_bytes, write_png
    from lorasynth.storage.outputs import require_new_output

    read = (model, zoo, trained_on)
    check_json(json, *(path for path in (grid, html, *read, cache) if path is not None), force=force)
    if cache is not None:
        check_folder(cache)
    of_pictures = {"--grid": grid is not None, "--data": photos.data is not None, "--clip": clip is not None}
    of_pictures |= {"--workers": workers > 1, "--photos": given > 1, "--scale": scale is not None}
    if zoo is not None and (other := next((option for option, given in of_pictures.items() if given), None)):
        raise UsageError(
            f"expected {other} or --zoo, got both: --zoo scores by weights and draws nothing; leave one out"
        )
    if photos.data is None and (second_encoder is not None or everybody):
        alone = "--second-encoder" if second_encoder is not None else "--everybody"
        raise UsageError(f"expected {alone} with --data, got it alone; leave it out, or name your photographs")
    if grid is not None:
        require_new_output(grid, force=force, suffix=".png")
    if html is not None:
        require_new_output(html, force=force, suffix=".html")
    setup(device)
    from lorasynth.demo import versions
    from lorasynth.evaluate.methods import EvaluationConfig
    from lorasynth.evaluate.page import methods_sheet, page
    from lorasynth.evaluate.pictures import open_for_pictures
    from lorasynth.evaluate.text_alignment import TextAlignment
    from lorasynth.evaluate.weights import evaluate_weights
    from lorasynth.synthesizer import DEFAULT_MODEL, Synthesizer
    from lorasynth.zoo.store import Zoo

    folder = DEFAULT_MODEL if model is None else model
    learned_from = Zoo.open(trained_on) if trained_on is not None else None
    image = None
    if zoo is not None:
        synthesizer, true = Synthesizer.from_pretrained(folder), Zoo.open(zoo)
        if learned_from is None and html is not None and any(item.split == "train" for item in true.items):
            learned_from = true
        record = evaluate_weights(synthesizer, true, trained_on=learned_from, seed=seed, report=say)
    else:
        source = photos.source("", second_encoder=second_encoder, everybody=everybody)
        rows = None if methods is None else tuple(methods.split(","))
        config = EvaluationConfig(
            people=people, photos=given, scale=scale, methods=rows, guidance_scale=guidance_scale, seed=seed
        )
        alignment = None if clip is None else TextAlignment(clip)
        with open_for_pictures(folder, source, cache, report=say) as opened:
            synthesizer = opened.model
            record, pictures = opened.evaluate(
                config, workers=workers, trained_on=learned_from, alignment=alignment, report=say
            )
        image = methods_sheet(pictures, opened.model.default_prior)
    record |= {"seed": seed, "versions": versions()}
    if grid is not None and image is not None:
        write_png(grid, image)
    if html is not None:
        title = f"lorasynth synthesizer {synthesizer.base}" if model is None else str(model)
        write_bytes(html, page(synthesizer, title, record, image).encode())
    emit(record, json)
