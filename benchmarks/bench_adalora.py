"""The ADALoRA layer in contracted form against building A(c) and B(c) for every sample, forward and backward, batch 256."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

import torch
from _harness import compare

from lorasynth.prior.conditioning import AdaLoRALinear


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    for rank in (8, 16):
        layer = AdaLoRALinear(1024, 1024, 512, rank=rank, bottleneck=64)
        torch.nn.init.normal_(layer.W_B, std=0.01)
        h, c = torch.randn(256, 1024, requires_grad=True), torch.randn(256, 512)
        compare(
            f"adalora_rank{rank}",
            lambda layer=layer, h=h, c=c: layer(h, c).sum().backward(),
            lambda layer=layer, h=h, c=c: layer.reference_forward(h, c).sum().backward(),
        )


if __name__ == "__main__":
    main()
