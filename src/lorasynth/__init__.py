"""lorasynth: a photo goes in, a LoRA comes out.

    photos ──encoder──▶ embedding (unit norm) ───────────────────────────────┐
                                                                             ▼
    images of many people ─▶ zoo ─▶ canonical vectors ─▶ VAE latents ─▶ prior ─▶ latent ─▶ LoRA file ─▶ pictures
                          (bank)   (SVD, gauge, scale)     (β < 1)   (ADALoRA)      (decode, invert)

Data flows one way. Each arrow is one folder. `Synthesizer` is the whole of it in one call. Names are imported when first used.
"""

from typing import TYPE_CHECKING, Any

from lorasynth.version import __version__

if TYPE_CHECKING:
    from lorasynth.canonical import Canonicalizer
    from lorasynth.lora.bank import AdapterBank
    from lorasynth.lora.factors import LoRA
    from lorasynth.lora.layout import Layout
    from lorasynth.opening import open_base, open_encoder, open_gallery
    from lorasynth.synthesizer import Synthesizer
    from lorasynth.vae import LoRAVAE
    from lorasynth.zoo import Zoo

_HOMES = {
    "AdapterBank": "lorasynth.lora.bank",
    "Canonicalizer": "lorasynth.canonical",
    "Layout": "lorasynth.lora.layout",
    "LoRA": "lorasynth.lora.factors",
    "LoRAVAE": "lorasynth.vae",
    "Synthesizer": "lorasynth.synthesizer",
    "Zoo": "lorasynth.zoo",
    "open_base": "lorasynth.opening",
    "open_encoder": "lorasynth.opening",
    "open_gallery": "lorasynth.opening",
}

__all__ = [
    "AdapterBank", "Canonicalizer", "Layout", "LoRA", "LoRAVAE", "Synthesizer", "Zoo", "__version__", "base_model",
    "open_base", "open_encoder", "open_gallery",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: torch alone takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lorasynth' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def base_model(world: str = "portraits128") -> str:
    """The folder of a world's base model, a `StableDiffusionPipeline` for plain diffusers."""
    from lorasynth.worlds.world import get_world

    return str(get_world(world).folder / "base")
