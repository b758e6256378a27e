"""The same people as a drawn world and as a folder of pictures: are synthesizers of both ways equally good?

    python benchmarks/both_ways.py folder --out out/both-ways     # these two in any order, or side by side
    python benchmarks/both_ways.py drawn --out out/both-ways
    python benchmarks/both_ways.py compare --out out/both-ways    # prints the table; writes out/both-ways/scores.json

`folder` exports portraits as PNG files and goes the way of photographs: splits by name, embeddings and latents prepared, a critic
distilled from the encoder. `drawn` goes the drawn world's way with as many of the same people. Their photos have settings of
their own there too. Both are scored on the same people, whom neither has seen. A stage that was ended goes on when called again.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lorasynth.base import render
from lorasynth.drawn.export import export_people
from lorasynth.evaluate.identity import interval
from lorasynth.evaluate.scoring import Scorer
from lorasynth.gallery import Split
from lorasynth.pipeline.recipe import Recipe
from lorasynth.pipeline.stages import train_all
from lorasynth.pipeline.workspace import SYNTHESIZER, Workspace
from lorasynth.recipes import get_recipe
from lorasynth.subjects.drawn import DrawnSubjects
from lorasynth.subjects.source import PhotoSource
from lorasynth.synthesizer import Synthesizer
from lorasynth.worlds.world import get_domain, get_world
from lorasynth.zoo.build import build_zoo

WORLD = "portraits"
WAYS = ("folder", "drawn")
METHODS = ("adalora", "adanorm", "ridge", "mean")
TRAIN_PART = 0.75  # of a folder's subjects who teach


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is trained."""

    people: int = 600  # of whom there are photos
    photos: int = 24  # of each
    loras: int = 128
    fit_steps: int = 800  # of the VAE and each prior
    critic_steps: int = 800
    steps: int = 600  # through the base


def recipe_of(size: Size) -> Recipe:
    """The world's recipe, shorter, straight on to end to end, with photos of each person's own settings."""
    usual = get_recipe(WORLD)
    assert usual.zoo is not None
    fit_photos = size.photos - 2 * (size.photos // 4) - size.photos // 8  # as a folder shares them out
    through = usual.end_to_end.through
    short = replace(
        through, people=round(TRAIN_PART * size.people), first_person=0, photos=size.photos // 4,
        loop=replace(through.loop, steps=size.steps, validate_every=max(1, size.steps // 6)),
    )  # fmt: skip
    critic = replace(usual.refine.critic, steps=size.critic_steps)
    components = min(usual.vae.num_components, size.loras // 2 or usual.vae.num_components)
    return replace(
        usual,
        zoo=replace(
            usual.zoo, people=size.loras, validation_people=24, photos=fit_photos, first_photo=0,
            embedding_photos=size.photos // 4, pilot_people=24, pilot_rounds=1,
        ),
        vae=replace(
            usual.vae, num_components=components, latent_dim=min(usual.vae.latent_dim, components),
            loop=replace(usual.vae.loop, steps=size.fit_steps),
        ),
        priors=tuple(replace(p, loop=replace(p.loop, steps=size.fit_steps)) for p in usual.priors),
        regression=replace(usual.regression, steps=size.fit_steps),
        refine=replace(usual.refine, critic=critic),
        end_to_end=replace(usual.end_to_end, through=short),
        refined_apart=False,
    )  # fmt: skip


def go(way: str, size: Size, out: Path) -> None:
    """One way, from people to a synthesizer."""
    recipe, folder, photos = recipe_of(size), out / way, None
    assert recipe.zoo is not None
    if way == "folder":
        export_people(get_domain(WORLD), size.people, size.photos, out / "people")
        photos = PhotoSource(data=str(out / "people"), base=WORLD, encoder=WORLD, family=WORLD)
    build_zoo(recipe.zoo, str(folder / "zoo"), photos=photos)
    if not (folder / "fit" / SYNTHESIZER / "config.json").exists():
        train_all(Workspace(recipe=recipe, folder=folder / "fit", zoo_folder=folder / "zoo", photos=photos))


def compare(people: int, out: Path) -> dict[str, Any]:
    """Similarity on people whom neither has seen, of both ways, and the difference person by person."""
    subjects = DrawnSubjects(get_world(WORLD))
    chosen, prompts = subjects.people(Split.HELD_OUT, people), list(subjects.prompts)
    scorer, embedding = Scorer.fit(subjects, chosen, len(prompts)), subjects.given(chosen)[:, 0]
    found: dict[str, dict[str, torch.Tensor]] = {}
    for way in WAYS:
        model = Synthesizer.from_pretrained(out / way / "fit" / SYNTHESIZER)
        layout = model.canonicalizer.layout
        vectors = {name: model.synthesize(embedding, prior=name) for name in METHODS}
        found[way] = {
            name: scorer.similarity(render(subjects.base, prompts, layout, loras, seed=0))
            for name, loras in vectors.items()
        }
    return {
        name: {way: interval(found[way][name]) for way in WAYS}
        | {"ratio": (found["folder"][name].mean() / found["drawn"][name].mean()).item()}
        | {"difference": interval(found["folder"][name] - found["drawn"][name])}
        for name in METHODS
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*WAYS, "compare"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--evaluated", type=int, default=100)
    for name, value in asdict(Size()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    stage, out, evaluated = given.pop("stage"), given.pop("out"), given.pop("evaluated")
    if stage in WAYS:
        go(stage, Size(**given), out)
        return
    scores = compare(evaluated, out)
    for name, score in scores.items():
        figures = "  ".join(
            f"{k} {v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for k, v in score.items() if k != "ratio"
        )
        print(f"{name:12s} ratio {score['ratio']:.3f}  {figures}")
    (out / "scores.json").write_text(json.dumps({"size": given, "evaluated": evaluated, "scores": scores}, indent=1))


if __name__ == "__main__":
    main()
