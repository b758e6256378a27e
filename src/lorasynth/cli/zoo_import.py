"""The verb that takes LoRAs into a zoo: import."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasynth.cli.common import Device, Force, ForceBase, Json, check_json, check_zoo, emit, say, setup
from lorasynth.errors import UsageError

if TYPE_CHECKING:
    from lorasynth.encoders.protocol import Encoder
    from lorasynth.lora.layout import Layout
    from lorasynth.zoo.importing.candidates import Candidate
    from lorasynth.zoo.importing.finding import PassedOver
    from lorasynth.zoo.importing.outcomes import Outcome
    from lorasynth.zoo.importing.pairing import Entry
    from lorasynth.zoo.importing.survey import Survey

AUTO = "auto"


def _licence(value: str) -> str:
    """A licence goes into every line of the manifest, and into the card."""
    if not value.strip() or not value.isprintable() or len(value) > 200:
        raise UsageError(f"--licence: expected a licence in 1 to 200 characters, got {value!r:.40}; CC0-1.0, say")
    return value


def zoo_import(
    out: Annotated[
        Path, typer.Option("--out", help="The zoo's folder; the same again goes on and takes in what is new.")
    ],
    licence: Annotated[
        str, typer.Option(help="What the LoRAs may be used for; kept with every item.", callback=_licence)
    ],
    paths: Annotated[
        list[str] | None, typer.Argument(help="LoRA files, PEFT folders, folders of them, glob patterns.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="What all are brought to: auto (what most of the files can give), a preset, the modules of a LoRA "
            "(its file), or a world's name."
        ),
    ] = AUTO,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Rank that all are brought to; the least that keeps 0.95 of ‖ΔW‖² by default."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV, JSONL or Parquet with columns file, person, face (embedding, photo or folder); else names side by side."
        ),
    ] = None,
    w2w: Annotated[
        Path | None,
        typer.Option(help="Folder of the weights2weights release, in place of paths; the table has row and person."),
    ] = None,
    embeddings: Annotated[Path | None, typer.Option(help="With --w2w: a .npy matrix, a face embedding a row.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="What embeds photos, and what embeddings were made with: a world's name, folder or file of ONNX face models, "
            "aligned:FILE, clip:FOLDER, dinov2:FOLDER or a hub id; see docs/reference/real-faces.md."
        ),
    ] = None,
    force_base: ForceBase = None,
    allow_zero: Annotated[bool, typer.Option("--allow-zero", help="Take in LoRAs that do nothing, too.")] = False,
    validation: Annotated[
        float | None,
        typer.Option(help="Part of the people to choose settings by; 0.05 by default, more of a few people."),
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Part of the people that nothing is fitted on; as --validation by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be taken and lost, and take in nothing.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            min=1, max=4096, help="Processes that read files, one a core; the zoo is the same for any number."
        ),
    ] = 1,
    json: Json = None,
    device: Device = "cpu",
    force: Force = False,
) -> None:
    """Take LoRAs of any format and rank into a zoo. Bad ones are set aside with the reason, in import.jsonl.

    What will be taken and lost is said before it begins. `train all imported` learns from any such zoo.

    Example: lorasynth zoo import loras/ --out runs/zoo --table people.csv --licence CC-BY-4.0
    """
    given = (Path(path) for path in paths or [])
    check_json(json, out, *(path for path in (*given, table, w2w, embeddings) if path is not None), force=force)
    check_zoo(out)
    setup(device)
    from lorasynth.encoders import describe
    from lorasynth.opening import open_encoder
    from lorasynth.zoo.importing.importer import REPORT_NAME, import_zoo

    opened = None if encoder is None else open_encoder(encoder)
    if opened is not None:
        say(describe(opened.record))
    if w2w is not None:
        found = _released(w2w, paths, table, embeddings)
    elif not paths or embeddings is not None:
        raise UsageError("expected paths of LoRAs, or --w2w with --embeddings; give one of the two")
    else:
        asked = _asked(layout, rank, out, force_base)
        found = _listed(paths, table, asked, encoder, opened, force_base)
    survey = None if found.survey is None else found.survey.to_dict()
    if dry_run:
        emit(
            {"zoo": str(out), "layout": found.layout.hash, "candidates": len(found.candidates), "survey": survey}, json
        )
        return
    parts = _parts(out, len({candidate.person for candidate in found.candidates}), validation, held_out)
    record = None if opened is None else opened.record
    zoo, outcomes = import_zoo(
        found.candidates, out, found.layout, licence=licence, encoder=record, validation=parts[0], held_out=parts[1],
        allow_zero=allow_zero, others=found.others, workers=workers, reopen=found.reopen, report=say,
    )  # fmt: skip
    said = {"zoo": str(out), "items": len(zoo), "layout": found.layout.hash}
    emit(said | _summary(outcomes) | {"survey": survey, "encoder": record, "report": str(out / REPORT_NAME)}, json)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is to be taken in."""

    candidates: "Sequence[Candidate]"
    reopen: "Callable[[], Sequence[Candidate]]"  # the same, in another process
    layout: "Layout"  # that all are brought to
    others: "Sequence[PassedOver]" = ()  # files that lie beside them
    survey: "Survey | None" = None


def _released(folder: Path, paths: list[str] | None, table: Path | None, embeddings: Path | None) -> _Found:
    """The rows of weights2weights' release."""
    from lorasynth.zoo.importing import w2w

    if paths or table is None or embeddings is None:
        labels = f". {w2w.HOW_TO_READ_LABELS}" if (folder / w2w.LABELS_NAME).exists() and table is None else ""
        raise UsageError(f"expected --w2w with --table and --embeddings and no paths; give all three{labels}")
    candidates, layout = w2w.candidates_of(folder, table, embeddings, report=say)
    reopen = partial(_reopened_release, folder, table, embeddings)
    return _Found(candidates=candidates, reopen=reopen, layout=layout)


def _reopened_release(folder: Path, table: Path, embeddings: Path) -> "Sequence[Candidate]":
    from lorasynth.zoo.importing import w2w

    return w2w.candidates_of(folder, table, embeddings, report=lambda _: None)[0]


def _listed(
    paths: list[str],
    table: Path | None,
    asked: "tuple[Layout | None, int | None]",
    encoder: str | None,
    opened: "Encoder | None",
    base: str | None,
) -> _Found:
    """Files and folders, each with the person whom a table or a name says."""
    from lorasynth.zoo.importing.candidates import candidates_of
    from lorasynth.zoo.importing.pairing import find_loras, look_alikes, pair_by_name, pair_by_table, passed_over

    loras = find_loras(paths)
    entries = pair_by_name(loras) if table is None else pair_by_table(loras, table, say)
    used = [entry.lora for entry in entries] + [face for entry in entries for face in entry.faces]
    others = passed_over(paths, [*used, *([table] if table else [])])
    for names in look_alikes(entry.person for entry in entries):
        say(f"are taken for different people, and look alike: {', '.join(names)}")
    layout, survey = _chosen([entry.lora for entry in entries], others, asked, base)
    candidates = candidates_of(entries, opened, base=base)
    reopen = partial(_reopened_files, entries, encoder, base)
    return _Found(candidates=candidates, reopen=reopen, layout=layout, others=others, survey=survey)


def _reopened_files(entries: "Sequence[Entry]", encoder: str | None, base: str | None) -> "Sequence[Candidate]":
    from lorasynth.opening import open_encoder
    from lorasynth.zoo.importing.candidates import candidates_of

    return candidates_of(entries, None if encoder is None else open_encoder(encoder), base=base)


def _summary(outcomes: "Sequence[Outcome]") -> dict[str, Any]:
    """What became of all LoRAs, in numbers, and the first that were refused or warned of."""
    from lorasynth.zoo.importing.importer import KINDS

    taken = [o for o in outcomes if o.outcome == "imported"]
    if trimmed := [o for o in taken if o.relative_error**2 > 0.05]:
        say(
            f"{len(trimmed)} of {len(taken)} LoRAs lost more than 0.05 of ‖ΔW‖²: relative_error and left_out in import.jsonl"
        )
    refused = [{"file": o.file, "reason": o.reason, "code": o.code} for o in outcomes if o.outcome == "refused"]
    warned = [{"file": o.file, "warnings": o.warnings} for o in outcomes if o.warnings]
    return {
        **{kind: sum(o.outcome == kind for o in outcomes) for kind in KINDS},
        "largest_relative_error": max((o.relative_error for o in outcomes), default=0.0),
        "lost_by_modules": sum(o.left_out for o in taken) / max(len(taken), 1),
        "refused_by_code": dict(Counter(r["code"] for r in refused).most_common()),
        "first_refused": refused[:10], "warned": len(warned), "first_warned": warned[:10],
    }  # fmt: skip


def _chosen(
    loras: list[Path], others: "Sequence[PassedOver]", asked: "tuple[Layout | None, int | None]", base: str | None
) -> "tuple[Layout, Survey | None]":
    """The layout that all are brought to, and what was seen of the files. Says what will be taken and lost."""
    from lorasynth.errors import ZooError
    from lorasynth.storage.faults import shown
    from lorasynth.zoo.importing.survey import of_rank, survey

    layout, rank = asked
    try:
        seen = survey(loras, layout, rank, base=base)
    except ZooError as error:
        if layout is None or rank is None:
            named = next((f"; {shown(other.file)}: {other.reason}" for other in others if other.refused), "")
            raise ZooError(f"{error}{named}") from None
        say(str(error))  # nothing is left to choose: the report will say so of each
        return of_rank(layout, rank), None
    for line in seen.lines():
        say(line)
    return seen.layout, seen


def _asked(name: str, rank: int | None, out: Path, base: str | None) -> "tuple[Layout | None, int | None]":
    """The layout and the rank that are asked for. None for what is to be chosen. A zoo that is there has chosen."""
    from lorasynth.lora.factors import LoRA
    from lorasynth.lora.layout import Layout
    from lorasynth.lora.presets import PRESETS
    from lorasynth.worlds.world import WORLDS, get_world
    from lorasynth.zoo.store import Zoo

    there = Zoo.open(out).layout if (out / "zoo.json").exists() else None
    rank_there = None if there is None else max(m.rank for m in there.modules)
    rank = rank or rank_there
    if name == AUTO:
        return there, rank
    if name in PRESETS:
        return Layout.preset(name), rank
    if name in WORLDS:
        return get_world(name).base.layout(1), rank
    if Path(name).exists():
        return LoRA.load(name, unet_only=True, base=base).layout, rank
    raise UsageError(
        f"expected --layout with a preset among {sorted(PRESETS)}, a LoRA file, a world among {sorted(WORLDS)} or auto, got "
        f"{name!r}"
    )


def _parts(out: Path, people: int, validation: float | None, held_out: float | None) -> tuple[float, float]:
    """The parts of the people for validation and held out: the zoo's, else so many that some ten are in each."""
    from lorasynth.zoo.store import Zoo

    recipe = Zoo.open(out).recipe if (out / "zoo.json").exists() else {}
    usual = min(0.25, max(0.05, 10 / max(people, 1)))
    validation = recipe.get("validation", usual) if validation is None else validation
    return validation, recipe.get("held_out", min(validation, usual)) if held_out is None else held_out
