"""A synthesizer of a real base, small and untrained: two modules of SD1.5's names, conditioned on an encoder of one's choice.

NOTE: lorasynth is imported inside functions only; see tests/conftest.py.
"""

import torch

NAMES = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{n}" for n in ("to_q", "to_v")]
BASE = "owner/a-base"


def sd15_layout(rank=1, *, true_shape=False):
    """Two of SD 1.5's modules; of another shape than SD 1.5's unless files of it are to be read through the gate."""
    from lorasynth.lora.layout import Layout, Module

    sides = {"in_features": 320, "out_features": 320} if true_shape else {"in_features": 12, "out_features": 10}
    return Layout(base="sd15", modules=tuple(Module(name=n, rank=rank, **sides) for n in NAMES))


def real_synthesizer(encoder_record, *, true_shape=False):
    from lorasynth.canonical import Canonicalizer
    from lorasynth.prior import Denoiser, DiffusionPrior, KernelPrior, NearestPrior, RidgePrior
    from lorasynth.synthesizer import Synthesizer
    from lorasynth.vae import LoRAVAE
    from lorasynth.vae.stem import principal_stem

    g = torch.Generator().manual_seed(0)
    layout, dim, z = sd15_layout(true_shape=true_shape), encoder_record["dim"], 4
    vectors = torch.randn(12, layout.num_parameters, generator=g)
    form = Canonicalizer.fit(vectors, layout)
    x = form.apply(vectors)
    vae = LoRAVAE.from_stem(x, principal_stem(x, 6, form.blocks, 10**6), z, hidden_dim=8).eval()
    faces, targets = (
        torch.nn.functional.normalize(torch.randn(12, dim, generator=g), dim=1),
        torch.randn(12, z, generator=g),
    )
    torch.manual_seed(0)
    denoiser = Denoiser(z, dim, width=16, depth=1)
    torch.nn.init.normal_(denoiser.leave.weight, std=0.1)
    ridge = RidgePrior(torch.randn(z, dim, generator=g), torch.zeros(z))
    return Synthesizer(
        base=BASE, encoder_record=encoder_record, canonicalizer=form, vae=vae, picture_size=512, card="# a card\n",
        priors={
            "adalora": DiffusionPrior(denoiser, ridge).eval(), "ridge": ridge, "nearest": NearestPrior(faces, targets),
            "kernel": KernelPrior.fit(faces, targets, 0.1),
        },
        settings={"adalora": {"num_inference_steps": 4}, "nearest": {"scale": 1.2}}, record={"made_from": {"loras": 12}},
    )  # fmt: skip
