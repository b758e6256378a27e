"""The two nodes: photos of one person -> that person's LoRA on a MODEL; and the LoRA as a file."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from lorasynth.errors import ConsentError, UsageError

from .applying import DTYPE, apply
from .photos import to_photos
from .saving import NUMBER, REFUSE, REPLACE, listed_as, place_for

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

    from lorasynth import LoRA, Synthesizer

CATEGORY = "lorasynth"
MODELS_OWN = -1
"""A setting's value that leaves it to the synthesizer, which was saved with the best one found."""
MAX_SEED = 2**53 - 1
"""The largest number that a browser does not round."""
NOT_STATED = "not stated"
CONSENTS = ("self", "subject", "synthetic")
LoRAType = io.Custom("LORASYNTH_LORA")


class SynthesizeLoRA(io.ComfyNode):
    """Photos of one person and a MODEL -> the MODEL with a LoRA of the person, and the LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        own = f"{MODELS_OWN}: the synthesizer's own setting."
        return io.Schema(
            node_id="LorasynthSynthesize",
            display_name="Synthesize LoRA from photo",
            category=CATEGORY,
            description="One forward pass from photos of a person to a LoRA of that person, without training.",
            inputs=[
                io.Model.Input("model", tooltip="A checkpoint of the base model that the synthesizer was made for."),
                io.Image.Input("image", tooltip="Photos of one person; a batch of several is pooled."),
                io.String.Input(
                    "synthesizer", default="", placeholder="folder or hub id", tooltip="Loaded once and kept in memory."
                ),
                io.Combo.Input(
                    "consent",
                    options=[NOT_STATED, *CONSENTS],
                    default=NOT_STATED,
                    tooltip="It is your own face (self), the person agreed (subject), or it is nobody's face (synthetic).",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=False,
                    tooltip="Equal seeds give equal LoRAs.",
                ),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01),
                io.String.Input(
                    "encoder",
                    default="",
                    optional=True,
                    tooltip="The face recogniser that the synthesizer was made with: a folder or file. Empty for drawn worlds.",
                ),
                io.String.Input("prior", default="", optional=True, tooltip="Empty: the synthesizer's default prior."),
                io.Float.Input(
                    "temperature", default=MODELS_OWN, min=MODELS_OWN, max=20.0, step=0.05, optional=True, tooltip=own
                ),
                io.Float.Input(
                    "guidance_scale", default=MODELS_OWN, min=MODELS_OWN, max=20.0, step=0.1, optional=True, tooltip=own
                ),
                io.Int.Input(
                    "num_inference_steps", default=MODELS_OWN, min=MODELS_OWN, max=1000, optional=True, tooltip=own
                ),
                io.Float.Input(
                    "scale",
                    default=MODELS_OWN,
                    min=MODELS_OWN,
                    max=20.0,
                    step=0.05,
                    optional=True,
                    tooltip=f"How far from the average person the LoRA goes. {own}",
                ),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="MODEL"),
                LoRAType.Output("lora", display_name="LORA"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, synthesizer: str = "", **_: Any) -> int | None:
        """Another value when the synthesizer's folder has been made anew: ComfyUI then runs the node again."""
        return _stamp(synthesizer)

    @classmethod
    def execute(
        cls,
        model: "ModelPatcher",
        image: "torch.Tensor",
        synthesizer: str,
        consent: str,
        seed: int,
        strength: float,
        encoder: str = "",
        prior: str = "",
        **settings: float,
    ) -> io.NodeOutput:
        """Synthesize and apply; all errors are lorasynth's own.

        Raises:
            ConsentError: nobody said whose consent there is.
            PhotoError: an image cannot be used.
            ModelError: the synthesizer cannot be used.
            UsageError: a value is out of range.
            LayoutError: the model does not take all of the LoRA.
        """
        if consent not in CONSENTS:
            raise ConsentError(
                "expected consent self, subject or synthetic: say whether it is your own face, the person agreed, or it is "
                "nobody's face"
            )
        photos = to_photos(image)
        loaded = _synthesizer(synthesizer.strip(), encoder.strip())
        chosen: dict[str, Any] = {name: value for name, value in settings.items() if value != MODELS_OWN}
        lora = loaded(photos, seed=seed, prior=prior.strip() or None, **chosen)
        for warning in loaded.last_warnings:
            logging.warning("lorasynth: %s", warning)
        lora = _as_stored(lora, consent)
        return io.NodeOutput(apply(lora, model, strength), lora)


class SaveLoRA(io.ComfyNode):
    """A synthesized LoRA -> a file in ComfyUI's loras folder, for Load LoRA and every other program."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="LorasynthSave",
            display_name="Save synthesized LoRA",
            category=CATEGORY,
            description="Writes a kohya .safetensors file, which ComfyUI, A1111/Forge, kohya and diffusers read.",
            inputs=[
                LoRAType.Input("lora"),
                io.String.Input("name", default="lorasynth/person", tooltip="Within the loras folder."),
                io.Combo.Input("if_exists", options=[NUMBER, REFUSE, REPLACE], default=NUMBER),
            ],
            outputs=[io.String.Output("lora_name", display_name="lora_name")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora: "LoRA", name: str, if_exists: str) -> io.NodeOutput:
        """Write the file.

        Raises:
            UsageError: the name leads out of the folder, or cannot be written.
            OutputExistsError: it is there, and is not to be replaced.
        """
        path = lora.save(place_for(name, if_exists), dtype=DTYPE, force=if_exists == REPLACE)
        called = listed_as(path)
        return io.NodeOutput(called, ui={"text": (called,)})


def _as_stored(lora: "LoRA", consent: str) -> "LoRA":
    """The LoRA with the numbers that its file will have, and the consent in its header."""
    return type(lora)(lora.layout, lora.vector.to(DTYPE).float(), {**lora.metadata, "lorasynth.consent": consent})


def _synthesizer(folder: str, encoder: str) -> "Synthesizer":
    """The synthesizer of a folder or hub id, from memory unless its folder has changed."""
    if not folder:
        raise UsageError("expected a synthesizer's folder or hub id, got nothing; fill in the node's field")
    return _load(folder, encoder, _stamp(folder))


@lru_cache(maxsize=2)
def _load(folder: str, encoder: str, stamp: int | None) -> "Synthesizer":
    from lorasynth import Synthesizer

    return Synthesizer.from_pretrained(folder, encoder=encoder or None)


def _stamp(folder: str) -> int | None:
    """When a folder's configuration was written, in nanoseconds; None for a hub id."""
    config = Path(folder.strip()) / "config.json"
    return config.stat().st_mtime_ns if config.is_file() else None
