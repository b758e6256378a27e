"""The canonical form against forming B·A and torch.linalg.svd, on the 320-wide attention layers of SD 1.5."""

import torch
from _harness import compare

from lorasynth.canonical.svd import canonical_factors
from lorasynth.lora.layout import Layout


def main() -> None:
    layout = Layout.preset("sd15-w2w", rank=1)
    for rank in (1, 4, 8):
        items = 8
        shapes = [(m.in_features, m.out_features) for m in layout.modules]
        small = [s for s in shapes if max(s) <= 320]
        factors = [(torch.randn(items, rank, i), torch.randn(items, o, rank)) for i, o in small]

        def ours(factors=factors) -> None:
            for A, B in factors:
                canonical_factors(A, B)

        def naive(factors=factors) -> None:
            A, B = factors[0]
            torch.linalg.svd(B[0] @ A[0], full_matrices=False)

        compare(f"canonical_rank{rank}_320", ours, naive, per_ours=items * len(small), per_other=1, runs=3)


if __name__ == "__main__":
    main()
