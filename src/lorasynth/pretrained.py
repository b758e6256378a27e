"""A synthesizer's folder: canonical form, VAE, priors, guard, configuration and card; no encoder and no pickle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasynth import __version__
from lorasynth.canonical import Canonicalizer
from lorasynth.encoders.drawn import WorldEncoder
from lorasynth.encoders.guard import WorldGuard
from lorasynth.encoders.protocol import Encoder
from lorasynth.encoders.records import Record, describe, difference
from lorasynth.errors import ModelError, OutputExistsError, UsageError
from lorasynth.files import read_json, read_tensors, sha256_file, write_bytes, write_json, write_tensors
from lorasynth.hub import local_copy
from lorasynth.outputs import make_folder
from lorasynth.prior import DiffusionPrior
from lorasynth.prior.baselines import Baseline
from lorasynth.vae import LoRAVAE
from lorasynth.weights import pack
from lorasynth.worlds.world import get_world

if TYPE_CHECKING:
    from lorasynth.synthesizer import Synthesizer

FORMAT_VERSION = 1
FILES = ("*.safetensors", "config.json", "README.md")
"""What a synthesizer's folder consists of."""
UNKNOWN = "unknown"
"""The kind of an encoder that nobody named."""
_FIELDS = ("format", "lorasynth", "base", "default_prior", "encoder", "priors", "settings", "picture_size")


def write_synthesizer(
    model: "Synthesizer", folder: Path, card: str | None, record: dict[str, Any] | None, priors: list[str]
) -> None:
    """See `Synthesizer.save_pretrained`."""
    default = model.default_prior
    if default not in priors or not set(priors) <= set(model.priors):
        raise UsageError(f"expected priors among {sorted(model.priors)}, {default!r} one of them, got {priors}")
    if (folder / "config.json").exists():
        raise OutputExistsError(f"{folder}: holds a synthesizer already; choose another folder or remove it")
    make_folder(folder / "priors")
    model.canonicalizer.save(folder / "canonical.safetensors")
    model.vae.save(folder / "vae.safetensors")
    for name in priors:
        model.priors[name].save(_prior_file(folder, name, default))
    if isinstance(model.encoder, WorldEncoder):
        write_tensors(folder / "guard.safetensors", pack(model.encoder.guard.__dict__))
    write_bytes(folder / "README.md", (model.card if card is None else card).encode())
    encoder = model.encoder_record
    if encoder is None:
        encoder = {"world": model.base, "sha256": sha256_file(_encoder_file(model.base))}
    config = {
        "format": FORMAT_VERSION, "lorasynth": __version__, "base": model.base, "default_prior": default, "encoder": encoder,
        "priors": {n: "diffusion" if isinstance(model.priors[n], DiffusionPrior) else "baseline" for n in priors},
        "settings": {name: values for name, values in model.settings.items() if name in priors},
        "picture_size": model.picture_size, **model.record, **(record or {}),
    }  # fmt: skip
    write_json(folder / "config.json", config)


def read_synthesizer(folder: str | Path, encoder: str | Encoder | None) -> dict[str, Any]:
    """The fields of a synthesizer; see `Synthesizer.from_pretrained`."""
    path = Path(folder)
    if not path.is_dir():
        path = local_copy(str(folder), "model", FILES)
    config = read_json(path / "config.json")
    if config.get("format") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format {config.get('format')!r}, this version reads {FORMAT_VERSION}; upgrade lorasynth"
        )
    try:
        fields = _eyes(path, config["encoder"], encoder)
        files = {name: _prior_file(path, name, config["default_prior"]) for name in config["priors"]}
        fields["priors"] = {
            n: (DiffusionPrior if kind == "diffusion" else Baseline).load(files[n])
            for n, kind in config["priors"].items()
        }
        fields |= {name: config[name] for name in ("base", "settings", "default_prior", "picture_size")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path / 'config.json'}: expected a synthesizer's configuration: {error}") from None
    card = path / "README.md"
    return fields | {
        "canonicalizer": Canonicalizer.load(path / "canonical.safetensors"),
        "vae": LoRAVAE.load(path / "vae.safetensors"),
        "card": card.read_text() if card.exists() else "",
        "record": {key: value for key, value in config.items() if key not in _FIELDS},
    }


def how_to_give(record: Record) -> str:
    """What to do for a model that is conditioned on the encoder of this record."""
    if record["kind"] == UNKNOWN:
        return (
            "nobody said which encoder the zoo's embeddings are by: give one by it in place of photos (from_embedding, "
            "--embedding FILE)"
        )
    return f"give the model its own (from_pretrained(..., encoder=SPEC), --encoder SPEC): {describe(record)}"


def _prior_file(folder: Path, name: str, default: str) -> Path:
    """The default prior lies in the open, its rivals in a folder beside it."""
    return folder / "prior.safetensors" if name == default else folder / "priors" / f"{name}.safetensors"


def _encoder_file(world: str) -> Path:
    return get_world(world).folder / "encoder.safetensors"


def _eyes(folder: Path, record: Record, given: str | Encoder | None) -> dict[str, Any]:
    """The fields of a synthesizer that say what it sees photos with."""
    if "world" in record:
        if given is not None:
            raise UsageError(
                f"{folder}: is of the drawn world {record['world']!r}, which has its encoder; leave encoder out"
            )
        return {"encoder": _world_encoder(folder, **record)}
    if given is None:
        return {"encoder_record": record}
    if record["kind"] == UNKNOWN:
        raise ModelError(f"{folder}: expected no encoder, got one that cannot be checked; {how_to_give(record)}")
    if isinstance(given, str):
        from lorasynth.encoders import open_encoder

        given = open_encoder(given)
    if wrong := difference(record, given.record):
        raise ModelError(f"{folder}: {wrong}; another's embeddings mean nothing to it")
    return {"encoder": given, "encoder_record": record}


def _world_encoder(folder: Path, world: str, sha256: str) -> WorldEncoder:
    """The world's encoder, if it is the one that the synthesizer was made with: another's embeddings mean nothing to it."""
    if (actual := sha256_file(_encoder_file(world))) != sha256:
        raise ModelError(
            f"{folder}: expected the encoder of world {world!r} with sha256 {sha256[:12]}, got {actual[:12]}; "
            "set LORASYNTH_ASSETS to the folder of the world that this model was made in"
        )
    guard, _ = read_tensors(folder / "guard.safetensors")
    return WorldEncoder(get_world(world), guard=WorldGuard(**guard))
