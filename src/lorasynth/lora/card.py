"""The hub's card of a LoRA: base model, trigger words, licence and a gallery, made by huggingface_hub's own classes."""

from collections.abc import Sequence

from lorasynth.errors import UsageError
from lorasynth.lora.factors import LoRA
from lorasynth.storage.cards import one_line
from lorasynth.storage.hub import is_repo_id

_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

<Gallery />

A LoRA of [{{ base_model }}](https://huggingface.co/{{ base_model }}): {{ modules }} modules, rank {{ ranks }},
‖ΔW‖ {{ norm }}.

## Trigger words

Use `{{ instance_prompt }}` in the prompt.

## Use it with diffusers

```python
import torch
from diffusers import AutoPipelineForText2Image

pipeline = AutoPipelineForText2Image.from_pretrained("{{ base_model }}", torch_dtype=torch.float16).to("cuda")
pipeline.load_lora_weights("OWNER/NAME", weight_name="{{ weight_name }}")
image = pipeline("{{ example }}").images[0]
```

ComfyUI, A1111/Forge and kohya read `{{ weight_name }}` as it is.

## Whose face

{{ whose }}
"""
_WHOSE = {
    "self": "The person who made this LoRA, by their own word.",
    "subject": "A person who agreed to it, by the word of whoever made this LoRA.",
    "synthetic": "Nobody's: the picture that it was made from was drawn.",
}


def lora_card(
    lora: LoRA,
    *,
    weight_name: str,
    licence: str,
    base_model: str | None = None,
    instance_prompt: str = "sks person",
    pictures: Sequence[tuple[str, str]] = (),
) -> str:
    """The README.md of a LoRA's repository on the hub, with the front matter that its pages read.

    Args:
        lora: what the card is of.
        weight_name: the LoRA's file in the repository.
        licence: as the hub spells it, such as "cc-by-4.0".
        base_model: a hub id; by default what the LoRA's header says.
        instance_prompt: the trigger words.
        pictures: of the gallery, each with its file in the repository and its prompt.

    Raises:
        UsageError: the base model is unknown or no hub id, or a text is empty.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base_model = base_model or lora.metadata.get("lorasynth.base_model", "")
    if not is_repo_id(base_model):
        raise UsageError(f"expected the base model's hub id, OWNER/NAME, got {base_model!r}; give --base-model")
    data = ModelCardData(
        license=one_line("licence", licence),
        base_model=base_model,
        instance_prompt=one_line("instance prompt", instance_prompt),
        pipeline_tag="text-to-image",
        library_name="diffusers",
        tags=["text-to-image", "diffusers", "lora", "template:sd-lora", "lorasynth"],
        widget=[{"text": one_line("prompt", prompt), "output": {"url": file}} for file, prompt in pictures],
    )
    ranks = sorted({module.rank for module in lora.layout.modules})
    card = ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        title=weight_name.removesuffix(".safetensors"),
        modules=len(lora.layout.modules),
        ranks=", ".join(map(str, ranks)),
        norm=f"{lora.norm():.3g}",
        weight_name=weight_name,
        example=pictures[0][1] if pictures else f"a photo of {instance_prompt}",
        whose=_WHOSE.get(lora.metadata.get("lorasynth.consent", ""), "The file does not say. Ask whoever made it."),
    )
    return str(card)
