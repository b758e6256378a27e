"""lorasynth in ComfyUI: photos of a person go into a node, a MODEL with that person's LoRA comes out.

ComfyUI imports this folder from ``custom_nodes/`` and calls `comfy_entrypoint`.
"""

from comfy_api.latest import ComfyExtension, io

from .nodes import SaveLoRA, SynthesizeLoRA


class LorasynthExtension(ComfyExtension):
    """The nodes of this package."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """What ComfyUI registers."""
        return [SynthesizeLoRA, SaveLoRA]


async def comfy_entrypoint() -> LorasynthExtension:
    """Where ComfyUI's loader begins."""
    return LorasynthExtension()
