"""The verbs, put together."""

from typing import Annotated

import typer

from lorasynth.cli import (
    arithmetic,
    card,
    create,
    data,
    evaluate,
    experiments,
    files,
    learn,
    zoo,
    zoo_care,
    zoo_import,
    zoo_pilot,
)
from lorasynth.version import __version__

app = typer.Typer(
    name="lorasynth",
    help="Zero-shot LoRA synthesis: a photo goes in, a LoRA comes out, in under a second.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def _say_version(wanted: bool) -> bool:
    if wanted:
        print(f"lorasynth {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """What the program takes without a verb."""


for verb in (
    create.demo,
    create.synthesize,
    create.render,
    files.inspect,
    files.convert,
    arithmetic.resize,
    arithmetic.merge,
    card.card,
    files.import_legacy,
    create.doctor,
    evaluate.evaluate,
    experiments.experiment,
):
    app.command()(verb)

zoo_app = typer.Typer(help="Make and tend a zoo of LoRAs.", no_args_is_help=True)
zoo_app.command("build")(zoo.zoo_build)
zoo_app.command("pilot")(zoo_pilot.zoo_pilot)
zoo_app.command("import")(zoo_import.zoo_import)
zoo_app.command("info")(zoo_care.zoo_info)
zoo_app.command("verify")(zoo_care.zoo_verify)
zoo_app.command("repair")(zoo_care.zoo_repair)
zoo_app.command("resize")(zoo_care.zoo_resize)
zoo_app.command("forget")(zoo_care.zoo_forget)
zoo_app.command("export")(zoo_care.zoo_export)
zoo_app.command("nearest")(zoo_care.zoo_nearest)
app.add_typer(zoo_app, name="zoo")

data_app = typer.Typer(help="Look at pictures before anything is trained on them.", no_args_is_help=True)
data_app.command("check")(data.data_check)
data_app.command("export")(data.data_export)
app.add_typer(data_app, name="data")

train_app = typer.Typer(help="Fit the models on a zoo; the same command again resumes.", no_args_is_help=True)
train_app.command("vae")(learn.train_vae)
train_app.command("prior")(learn.train_prior)
train_app.command("refine")(learn.train_refine)
train_app.command("end-to-end")(learn.train_end_to_end)
train_app.command("settings")(learn.train_settings)
train_app.command("all")(learn.train_all)
app.add_typer(train_app, name="train")
