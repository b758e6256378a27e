"""One way to name a gallery, for every command and function that takes one: `open_gallery`.

portraits, emblems, brushes   a drawn world
people/                       a folder of photographs; see `lorasynth.gallery.forms`
people.zip                    the same in an archive, read where it lies
hf://datasets/OWNER/NAME      a data set of the Hugging Face hub; the extra [data]
"""

from pathlib import Path

from lorasynth.errors import UsageError
from lorasynth.gallery.folder import INSTANCE_PROMPT, PhotoGallery
from lorasynth.gallery.gallery import Gallery
from lorasynth.gallery.hub import PREFIX, HubTree
from lorasynth.gallery.trees import open_tree
from lorasynth.worlds.world import WORLDS

FORMS = f"a folder or .zip of photos, {PREFIX}OWNER/NAME, or a drawn world's name ({', '.join(WORLDS)})"


def open_gallery(name: str | Path, *, instance_prompt: str | None = None, masks: bool = True) -> Gallery:
    """The gallery of a name. A drawn world's name means the world, even where a folder is called so: that is ./portraits.

    Args:
        name: one of the forms above.
        instance_prompt: the caption of photos that have none; "a photo of sks person" by default.
        masks: whether mask files and transparent parts say where the loss looks.

    Raises:
        UsageError: nothing lies there, there is no photo, or a drawn world is given a prompt.
        MissingExtraError: a data set of the hub needs the extra [data].
    """
    if str(name) not in WORLDS:
        return open_photos(name, instance_prompt=instance_prompt, masks=masks)
    if instance_prompt is not None:
        raise UsageError(f"expected no instance prompt with the world {str(name)!r}, whose photos all have captions")
    from lorasynth.drawn.gallery import DrawnGallery
    from lorasynth.worlds.world import get_domain

    return DrawnGallery(domain=get_domain(str(name)))


def open_photos(name: str | Path, *, instance_prompt: str | None = None, masks: bool = True) -> PhotoGallery:
    """`open_gallery` of what holds photos.

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
    return PhotoGallery.open(tree, instance_prompt=prompt, masks=masks)
