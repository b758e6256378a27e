"""What is used by its name: a base model."""

from lorasynth.base import PipelineBase


def open_base(
    name: str, *, resolution: int | None = None, precision: str = "fp32", gradient_checkpointing: bool = False
) -> PipelineBase:
    """A base by name, frozen, on the default device.

    Args:
        name: a drawn world's name, the folder of a diffusers pipeline, a .safetensors checkpoint, or a hub id.
        resolution: pixels a side of its pictures; by default those that it was trained on.
        precision: of its weights: "fp32" or "bf16".
        gradient_checkpointing: less memory for gradients, for about a third more time.

    Raises:
        ModelError: there is none of that name, or it cannot be read.
        UsageError: it does not draw pictures of that resolution, or has no such precision.
    """
    from lorasynth.base.opening import open_pipeline
    from lorasynth.errors import UsageError
    from lorasynth.worlds.world import WORLDS, get_world

    if name not in WORLDS:
        return open_pipeline(
            name, resolution=resolution, precision=precision, gradient_checkpointing=gradient_checkpointing
        )
    world = get_world(name)
    if resolution not in (None, world.picture_size) or precision != "fp32":
        raise UsageError(
            f"expected resolution {world.picture_size} and precision fp32 for the drawn world {name}, got {resolution} and "
            f"{precision}; leave them out"
        )
    if gradient_checkpointing:
        world.base.enable_gradient_checkpointing()
    return world.base
