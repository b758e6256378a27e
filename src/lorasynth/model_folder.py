"""Reading a synthesizer's folder: every file held to what it must be before anything is made of it. No encoder, no pickle."""

import os
from pathlib import Path
from typing import Any

from lorasynth.canonical import Canonicalizer
from lorasynth.drawn.domain_check import DomainCheck
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, describe, difference
from lorasynth.errors import ModelError, UsageError
from lorasynth.prior import DiffusionPrior, Predictor
from lorasynth.prior.baselines import Baseline
from lorasynth.storage.cards import CARD, PICTURES, read_pictures
from lorasynth.storage.faults import printable
from lorasynth.storage.hub import local_copy
from lorasynth.storage.reading import read_json, read_text, sha256_file
from lorasynth.storage.schema import (
    ANYTHING,
    LINE,
    NAME,
    SHA256,
    Misfit,
    dimensions,
    number,
    one_of,
    record,
    table,
    text,
    whole,
)
from lorasynth.storage.tensorfile import TensorFile
from lorasynth.storage.weights import packed_shapes, read_packed
from lorasynth.vae import LoRAVAE
from lorasynth.worlds.world import WORLDS, World, get_world

FORMAT_VERSION = 1
FILES = ("*.safetensors", "config.json", CARD, f"{PICTURES}/*.png")
"""What a synthesizer's folder consists of."""
UNKNOWN = "unknown"
"""The kind of an encoder that nobody named."""
MAX_CONFIG_MB = 16
SETTINGS = {
    "guidance_scale": number(0, 20), "temperature": number(0, 20), "scale": number(0, 20), "num_inference_steps": whole(1, 1000)
}  # fmt: skip
"""Settings of a sampler; see `Synthesizer.synthesize`."""
_WORLDS_ENCODER = record({"world": one_of(*WORLDS), "sha256": SHA256}, optional={"appearance": SHA256})
_USERS_ENCODER = record({"kind": text(40), "name": LINE, "dim": whole(1, 1 << 16)}, rest=ANYTHING)


def _encoder(value: Any, place: str) -> Record:
    """A drawn world's own encoder, or a record of the user's."""
    found: Record = (_WORLDS_ENCODER if isinstance(value, dict) and "world" in value else _USERS_ENCODER)(value, place)
    return found


_CONFIG = record(
    {
        "format": one_of(FORMAT_VERSION), "base": LINE, "default_prior": NAME, "encoder": _encoder,
        "priors": table(NAME, one_of("diffusion", "baseline"), most=64),
        "settings": table(NAME, record(optional=SETTINGS), most=64), "picture_size": whole(1, 1 << 16),
    },
    optional={"subject": LINE},
    rest=ANYTHING,
)  # fmt: skip
_PRIORS: dict[str, type[DiffusionPrior] | type[Baseline]] = {"diffusion": DiffusionPrior, "baseline": Baseline}
_FIELDS = ("format", "lorasynth", "base", "default_prior", "encoder", "priors", "settings", "picture_size")


def find_synthesizer(name: str | Path) -> Path:
    """The folder of a synthesizer: one of that name, or that of a drawn world (``portraits``), or a copy from the hub.

    Raises:
        ModelError: it is none of them, or that world has no synthesizer.
    """
    if os.path.isdir(name):
        return Path(name)
    if str(name) in WORLDS:
        return get_world(str(name)).synthesizer_folder
    return local_copy(str(name), "model", FILES)


def read_synthesizer(folder: str | Path, encoder: str | Encoder | None) -> dict[str, Any]:
    """The fields of a synthesizer. See `lorasynth.Synthesizer.from_pretrained`."""
    path = find_synthesizer(folder)
    # 1. What it is: its configuration, every value of its type and within bounds.
    said = read_json(path / "config.json", record({"format": ANYTHING}, rest=ANYTHING), MAX_CONFIG_MB)
    if said["format"] != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format {printable(repr(said['format']), 40)}, this version reads {FORMAT_VERSION}; upgrade lorasynth"
        )
    config = read_json(path / "config.json", _CONFIG, MAX_CONFIG_MB)
    default, base = config["default_prior"], config["base"]
    if default not in config["priors"] or not config["settings"].keys() <= config["priors"].keys():
        raise ModelError(f"{path / 'config.json'}: expected a default prior and settings of its priors, got others")
    # 2. Its parts.
    fields = _eyes(path, base, config["encoder"], encoder)
    fields |= {
        "canonicalizer": Canonicalizer.load(path / "canonical.safetensors"),
        "vae": LoRAVAE.load(path / "vae.safetensors"),
        "priors": {
            name: _PRIORS[kind].load(prior_file(path, name, default)) for name, kind in config["priors"].items()
        },
    }
    card = read_text(path / CARD, MAX_CONFIG_MB) if os.path.lexists(path / CARD) else ""
    # 3. Whether they are of one model.
    dim = fields["encoder"].dim if fields.get("encoder") else config["encoder"]["dim"]
    _require_one_model(path, fields["canonicalizer"], fields["vae"], fields["priors"], dim)
    return fields | {
        "base": base, "settings": config["settings"], "default_prior": default, "picture_size": config["picture_size"],
        "card": card, "pictures": read_pictures(path, card),
        "record": {key: value for key, value in config.items() if key not in _FIELDS},
    }  # fmt: skip


def _require_one_model(
    folder: Path, form: Canonicalizer, vae: LoRAVAE, priors: dict[str, Predictor], embedding_dim: int
) -> None:
    """Check that the parts fit together: embedding -> latent -> canonical vector -> LoRA.

    Raises:
        ModelError: they do not.
    """
    if vae.stem.num_features != form.num_features:
        raise ModelError(
            f"{folder}: expected a VAE of {form.num_features} numbers, as the canonical form has, got {vae.stem.num_features}; "
            "get the model again"
        )
    for name, prior in priors.items():
        latent_dim, of_embeddings = prior.sizes
        if latent_dim != vae.latent_dim or of_embeddings not in (None, embedding_dim):
            raise ModelError(
                f"{folder}: expected prior {name!r} from {embedding_dim} to {vae.latent_dim} numbers, got one from "
                f"{of_embeddings} to {latent_dim}; get the model again"
            )


def how_to_give(record: Record) -> str:
    """What to do for a model that is conditioned on the encoder of this record."""
    if record["kind"] == UNKNOWN:
        return (
            "the zoo does not say which encoder its embeddings are by; give an embedding in place of photos (from_embedding, "
            "--embedding FILE)"
        )
    return f"give the model its own (from_pretrained(..., encoder=SPEC), --encoder SPEC): {describe(record)}"


def prior_file(folder: Path, name: str, default: str) -> Path:
    """The default prior lies in the open, its rivals in a folder beside it."""
    return folder / "prior.safetensors" if name == default else folder / "priors" / f"{name}.safetensors"


def _eyes(folder: Path, base: str, said: Record, given: str | Encoder | None) -> dict[str, Any]:
    """The fields of a synthesizer that say what it sees photos with."""
    if "world" in said:
        if given not in (None, said["world"]):
            raise UsageError(
                f"{folder}: is of the drawn world {said['world']!r}, which has its encoder; leave encoder out"
            )
        if said["world"] != base:
            raise ModelError(f"{folder}: expected the encoder of world {base!r}, got that of {said['world']!r}")
        return {"encoder": _world_encoder(folder, get_world(base), said)}
    if given is None:
        return {"encoder_record": said}
    if said["kind"] == UNKNOWN:
        raise ModelError(f"{folder}: expected no encoder, got one that cannot be checked; {how_to_give(said)}")
    if isinstance(given, str):
        from lorasynth.opening import open_encoder

        given = open_encoder(given)
    if wrong := difference(said, given.record):
        raise ModelError(f"{folder}: {wrong}; give the encoder that it was made with")
    return {"encoder": given, "encoder_record": said}


def _world_encoder(folder: Path, world: World, said: Record) -> WorldEncoder:
    """The world's encoder, if it is the one that the synthesizer was made with: another's embeddings mean nothing to it."""
    files = {"encoder": (world.encoder_file, said["sha256"])}
    if "appearance" in said:
        files["appearance net"] = (world.appearance_file, said["appearance"])
    for what, (path, sha256) in files.items():
        actual = sha256_file(path) if path.exists() else "none"
        if actual != sha256:
            raise ModelError(
                f"{folder}: expected the {what} of world {world.name!r} with sha256 {sha256[:12]}, got {actual[:12]}; "
                "set LORASYNTH_ASSETS to the folder of the world that this model was made in"
            )
    with TensorFile(folder / "guard.safetensors") as file:
        count = dimensions(packed_shapes(file), DomainCheck.TENSORS)["n"]
        if count not in (3, 4, 5):  # older guards have no limit of shading, nor of flatness
            raise Misfit("limits", "shape (3), (4) or (5)", (count,))
        guard = DomainCheck(**read_packed(file))
    return WorldEncoder(world, guard=guard, alone="appearance" not in said)
