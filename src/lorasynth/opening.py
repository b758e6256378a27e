"""What is used by its name: a base model, a gallery of photos, an encoder.

A world's name means the world even where a folder is called so: that is ./portraits.
"""

from pathlib import Path

from lorasynth.base import PipelineBase
from lorasynth.drawn.encoder import WorldEncoder
from lorasynth.encoders.joined import JOIN, JoinedEncoder
from lorasynth.encoders.naming import is_file, open_model
from lorasynth.encoders.protocol import Encoder
from lorasynth.errors import UsageError
from lorasynth.gallery.folder import INSTANCE_PROMPT, PhotoGallery
from lorasynth.gallery.hub import PREFIX, HubTree
from lorasynth.gallery.trees import open_tree
from lorasynth.worlds.world import WORLDS, get_world


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


def open_gallery(
    name: str | Path, *, instance_prompt: str | None = None, masks: bool = True, keep_alike: bool = False
) -> PhotoGallery:
    """The photos of a name.

    Args:
        name: a folder or .zip of photos (`lorasynth.gallery.forms`), or hf://datasets/OWNER/NAME.
        instance_prompt: the caption of photos that have none; "a photo of sks person" by default.
        masks: whether mask files and transparent parts say where the loss looks.
        keep_alike: whether subjects that look like one stay; see `PhotoGallery.open`.

    Raises:
        UsageError: nothing lies there, there is no photo, or it is a drawn world's name.
        MissingExtraError: a data set of the hub needs the extra [data].
    """
    if str(name) in WORLDS:
        raise UsageError(
            f"expected photos, got the drawn world {str(name)!r}; make photos of it with `lorasynth data export {name}`, or "
            f"write ./{name} for a folder of that name"
        )
    tree = HubTree.open(str(name)) if str(name).startswith(PREFIX) else open_tree(Path(name))
    prompt = INSTANCE_PROMPT if instance_prompt is None else instance_prompt
    return PhotoGallery.open(tree, instance_prompt=prompt, masks=masks, keep_alike=keep_alike)


def open_encoder(spec: str | Path) -> Encoder:
    """The encoder of a name: a drawn world's, or what `lorasynth.encoders.naming.open_model` opens.

    Its ``record`` says which encoder it is, and under which licence. `lorasynth.encoders.describe` puts that into a line.

    Args:
        spec: a drawn world's name, a folder or file of an ONNX recogniser, aligned:FILE, clip:FOLDER, dinov2:FOLDER, or a hub id.
            Several of them with + between are joined (`JoinedEncoder`).

    Raises:
        UsageError: the name has none of these forms, or nothing lies there.
        ModelError: what lies there is not a model of this kind, or which of several files is meant is not clear.
        MissingExtraError: the extra [face] is not installed.
    """
    name = str(spec)
    if name in WORLDS:
        return WorldEncoder(get_world(name))
    if JOIN in name and not is_file(name):
        return JoinedEncoder([open_encoder(part.strip()) for part in name.split(JOIN)])
    return open_model(name)
