"""A tiny pipeline of random weights of each family that diffusers knows: real classes, a fraction of a second a picture."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5EncoderModel,
    UMT5EncoderModel,
)

from lorasynth.worlds.text import MAX_TOKENS, build_tokenizer

WORDS = ("a", "photo", "of", "sks", "person", "painting", "in", "the", "garden")
SIZE = 32  # pixels a side


def vae(**settings):
    """32 pixels to 8 x 8 latents of 4 channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, **settings,
    )  # fmt: skip


def clip(width, kind=CLIPTextModel):
    tokenizer = build_tokenizer(WORDS)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = kind(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight)  # so that words differ
    return tokenizer, model


def clip_folder(folder):
    """A whole CLIP model, with both of its towers, as transformers saves one."""
    tokenizer, text = clip(16)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text.config.to_dict(), vision_config=vision | {"image_size": 32, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    torch.nn.init.normal_(model.text_model.get_input_embeddings().weight)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def t5(width, kind=T5EncoderModel):
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    config = kind.config_class(vocab_size=len(words), d_model=width, d_ff=32, d_kv=8, num_layers=1, num_heads=2)
    model = kind(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    return tokenizer, model


def ddim(**settings):
    """Stable Diffusion 1.5's schedule: epsilon, "leading" timesteps, a last step that leaves the least noise of the table."""
    return DDIMScheduler(**{
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
        "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
    } | settings)  # fmt: skip


def unet(**settings):
    return UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1, "cross_attention_dim": 32,
        "attention_head_dim": 2, "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    } | settings)  # fmt: skip


def sd15(scheduler=None, **settings):
    tokenizer, text_encoder = clip(32)
    return StableDiffusionPipeline(
        vae=vae(), tokenizer=tokenizer, text_encoder=text_encoder, unet=unet(**settings), scheduler=scheduler or ddim(),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip


def sd2():
    return sd15(ddim(prediction_type="v_prediction"), use_linear_projection=True)


def sdxl():
    first, second = clip(16), clip(16, CLIPTextModelWithProjection)
    return StableDiffusionXLPipeline(
        vae=vae(), tokenizer=first[0], text_encoder=first[1], tokenizer_2=second[0], text_encoder_2=second[1],
        unet=unet(
            use_linear_projection=True, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
            addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        scheduler=ddim(), force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip


def sd3():
    first, second = (clip(16, CLIPTextModelWithProjection) for _ in range(2))
    return StableDiffusion3Pipeline(
        vae=vae(shift_factor=0.06, scaling_factor=1.5), tokenizer=first[0], text_encoder=first[1], tokenizer_2=second[0],
        text_encoder_2=second[1], tokenizer_3=None, text_encoder_3=None,
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def flux(guidance_embeds=True):
    first, second = clip(32), t5(32)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, max_image_seq_len=64)
    return FluxPipeline(
        vae=vae(shift_factor=0.1, scaling_factor=0.4), tokenizer=first[0], text_encoder=first[1], tokenizer_2=second[0],
        text_encoder_2=second[1],
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
        ),
        scheduler=scheduler if guidance_embeds else FlowMatchEulerDiscreteScheduler(shift=1.0),
    )  # fmt: skip


def auraflow():
    tokenizer, text_encoder = t5(32, UMT5EncoderModel)
    return AuraFlowPipeline(
        vae=vae(), tokenizer=tokenizer, text_encoder=text_encoder,
        transformer=AuraFlowTransformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_mmdit_layers=2, num_single_dit_layers=2,
            attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=64,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip


FAMILIES = {"sd15": sd15, "sd2": sd2, "sdxl": sdxl, "sd3": sd3, "flux": flux, "auraflow": auraflow}


def pipeline(family):
    """One of `FAMILIES`, of the same weights each time, with a denoiser that answers something of size 1."""
    torch.manual_seed(0)
    pipe = FAMILIES[family]()
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    for name, parameter in denoiser.named_parameters():
        if parameter.dim() > 1:  # diffusers begins some layers at zero, which hides what goes through them
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe):
    """One small picture, always from the same noise."""
    return pipe(
        ["a photo of sks person"], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt",
        height=SIZE, width=SIZE,
    ).images  # fmt: skip
