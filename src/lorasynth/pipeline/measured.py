"""What the stages wrote of their results, read again for the card: as strictly as every file of a model's folder."""

from pathlib import Path
from typing import Any, Final

from lorasynth.storage.reading import read_json
from lorasynth.storage.schema import Type, figures, number, record

END_TO_END: Final = "end-to-end"
"""Folder of what is trained last."""
_MAX_MB = 1
_NUMBER = number(-1e300, 1e300)


def _figures(*names: str) -> Type:
    """Figures among which are those that a card quotes."""
    return record(dict.fromkeys(names, _NUMBER), rest=figures(1))


_ERRORS = ("delta_W_error", "delta_W_error_of_the_mean")
_VAE = _figures(*_ERRORS, "active_units")
_PRIOR = record({"explained": _NUMBER}, optional={"ridge_explained": _NUMBER}, rest=figures(1))
_PHASES = record({phase: _figures("loss_before", "loss_after") for phase in ("photo", "drawn")})
_END_TO_END: Final = _figures(*_ERRORS, "likeness_before", "likeness_after")


def read_measured(folder: Path, priors: list[str], *, refined: bool, end_to_end: bool) -> dict[str, Any]:
    """What was measured of the VAE and the priors, and, where these stages ran, of "refined" priors and "end_to_end".

    Args:
        folder: of the stages.
        priors: names of the diffusion priors.
        refined: whether each was trained through the base.
        end_to_end: whether all were trained with the VAE.

    Raises:
        ModelError: a file is missing, or says something else.
    """
    found = {
        "vae": read_json(folder / "vae.json", _VAE, _MAX_MB),
        "priors": read_json(folder / "priors.json", record(dict.fromkeys(priors, _PRIOR), rest=figures(1)), _MAX_MB),
    }
    if refined:
        found["refined"] = {name: read_json(folder / "refined" / f"{name}.json", _PHASES, _MAX_MB) for name in priors}
    if end_to_end:
        found["end_to_end"] = read_json(folder / END_TO_END / "metrics.json", _END_TO_END, _MAX_MB)
    return found
