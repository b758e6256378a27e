"""A tiny Stable Diffusion 1.5 pipeline as the single file that CompVis' code would have written."""

import re

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = [  # of two levels with one layer each, attention in the second
    (r"conv_in\.", "input_blocks.0.0."), (r"time_embedding\.linear_1\.", "time_embed.0."),
    (r"time_embedding\.linear_2\.", "time_embed.2."), (r"conv_norm_out\.", "out.0."), (r"conv_out\.", "out.2."),
    (r"down_blocks\.0\.resnets\.0\.", "input_blocks.1.0."), (r"down_blocks\.0\.downsamplers\.0\.conv\.", "input_blocks.2.0.op."),
    (r"down_blocks\.1\.resnets\.0\.", "input_blocks.3.0."), (r"down_blocks\.1\.attentions\.0\.", "input_blocks.3.1."),
    (r"mid_block\.resnets\.0\.", "middle_block.0."), (r"mid_block\.attentions\.0\.", "middle_block.1."),
    (r"mid_block\.resnets\.1\.", "middle_block.2."),
    (r"up_blocks\.0\.resnets\.([01])\.", r"output_blocks.\1.0."), (r"up_blocks\.0\.attentions\.([01])\.", r"output_blocks.\1.1."),
    (r"up_blocks\.0\.upsamplers\.0\.conv\.", "output_blocks.1.2.conv."),
    (r"up_blocks\.1\.resnets\.0\.", "output_blocks.2.0."), (r"up_blocks\.1\.resnets\.1\.", "output_blocks.3.0."),
]  # fmt: skip
VAE = [
    (r"(en|de)coder\.conv_norm_out\.", r"\1coder.norm_out."),
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2."),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"decoder.up.{2 - int(m[1])}.block.{m[2]}."),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"decoder.up.{2 - int(m[1])}.upsample."),
    (r"coder\.mid_block\.resnets\.(\d)\.", lambda m: f"coder.mid.block_{int(m[1]) + 1}."),
    (r"coder\.mid_block\.attentions\.0\.", "coder.mid.attn_1."), (r"group_norm\.", "norm."), (r"to_q\.", "q."), (r"to_k\.", "k."),
    (r"to_v\.", "v."), (r"to_out\.0\.", "proj_out."), (r"conv_shortcut", "nin_shortcut"),
]  # fmt: skip


def checkpoint(pipe):
    """Names and tensors of the file."""
    tensors = {}
    for key, tensor in pipe.unet.state_dict().items():
        is_resnet = ".resnets." in key
        for pattern, name in UNET:
            key = re.sub("^" + pattern, name, key)
        if is_resnet:
            key = re.sub(r"(" + "|".join(RESNET) + r")\.", lambda m: RESNET[m[1]] + ".", key)
        tensors["model.diffusion_model." + key] = tensor
    for key, tensor in pipe.vae.state_dict().items():
        is_projection = ".attentions." in key and tensor.dim() == 2
        for pattern, name in VAE:
            key = re.sub(pattern, name, key)
        tensors["first_stage_model." + key] = tensor[:, :, None, None] if is_projection else tensor
    for key, tensor in pipe.text_encoder.state_dict().items():
        tensors["cond_stage_model.transformer." + ("" if key.startswith("text_model.") else "text_model.") + key] = (
            tensor
        )
    return {key: tensor.contiguous() for key, tensor in tensors.items()}
