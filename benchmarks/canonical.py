"""The canonical form at ranks 1, 4, 8 and 16 on SD 1.5's layers: against forming B·A and its SVD, QR and SVD, and a copy.

    python benchmarks/canonical.py

On every third module of the layout `sd15-w2w`, in order of shape, so that the shapes stand in its proportion. Gauges are random,
of condition 10. The error is ``‖B'A' - BA‖ / ‖BA‖`` in float64, the worst of all modules of the first LoRA.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable

import torch
from _harness import compare
from torch import Tensor

from lorasynth.canonical.svd import canonical_factors
from lorasynth.lora.layout import Layout

NUM_LORAS = {1: 128, 4: 32, 8: 16, 16: 8}
Pair = tuple[Tensor, Tensor]


def formed(A: Tensor, B: Tensor) -> Pair:
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    root, rank = S.sqrt()[:, : A.shape[1]], A.shape[1]
    return root[:, :, None] * Vh[:, :rank], U[:, :, :rank] * root[:, None]


def qr_and_svd(A: Tensor, B: Tensor) -> Pair:
    (Q_A, R_A), (Q_B, R_B) = torch.linalg.qr(A.mT), torch.linalg.qr(B)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.mT)
    root = S.sqrt()
    return (root[:, :, None] * Vh) @ Q_A.mT, Q_B @ (U * root[:, None])


def qr_and_svd_float64(A: Tensor, B: Tensor) -> Pair:
    A_c, B_c = qr_and_svd(A.double(), B.double())
    return A_c.float(), B_c.float()


def ours(A: Tensor, B: Tensor) -> Pair:
    return canonical_factors(A, B)[:2]


def copy(A: Tensor, B: Tensor) -> Pair:
    return A.clone(), B.clone()


def gauged_pair(count: int, rank: int, inner: int, outer: int) -> Pair:
    """Factors whose directions fall off as 1/j, in a gauge of condition 10."""
    A, B = torch.randn(count, rank, inner), torch.randn(count, outer, rank) / torch.arange(1, rank + 1)
    left, right = (torch.linalg.qr(torch.randn(count, rank, rank)).Q for _ in range(2))
    G = left * torch.logspace(0, 1, rank) @ right
    return torch.linalg.solve(G, A).contiguous(), B @ G


def error(way: Callable[[Tensor, Tensor], Pair], pairs: list[Pair]) -> float:
    worst = 0.0
    for A, B in ((A[:1], B[:1]) for A, B in pairs):
        A_c, B_c = way(A, B)
        wanted = B.double() @ A.double()
        worst = max(worst, float((B_c.double() @ A_c.double() - wanted).norm() / wanted.norm()))
    return worst


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    shapes = sorted((m.in_features, m.out_features) for m in Layout.preset("sd15-w2w").modules)[::3]
    print(f"{len(shapes)} modules; error of ΔW in brackets")
    rows = [
        "| rank | B·A and its SVD | QR + SVD, float32 | QR + SVD, float64 | copy | error |",
        "|---|---|---|---|---|---|",
    ]
    for rank, count in NUM_LORAS.items():
        pairs = [gauged_pair(count, rank, inner, outer) for inner, outer in shapes]
        row = f"| {rank} |"
        for other in (formed, qr_and_svd, qr_and_svd_float64, copy):
            # Forming takes seconds: one LoRA, and as much of ours as makes up for the caches it leaves cold.
            used, times = (1, 8) if other is formed else (count, 1)
            ratio, *_ = compare(
                f"canonical_rank{rank}_{other.__name__}",
                lambda pairs=pairs, times=times: [ours(A, B) for _ in range(times) for A, B in pairs],
                lambda pairs=pairs, other=other, used=used: [other(A[:used], B[:used]) for A, B in pairs],
                per_ours=count * times, per_other=used, runs=3 if other is formed else 9,
            )  # fmt: skip
            row += f" {ratio:,.0f}×" if ratio >= 100 else f" {ratio:.2f}×"
            row += " |" if other is copy else f" ({error(other, pairs):.1e}) |"
        rows.append(f"{row} {error(ours, pairs):.1e} |")
    print("", *rows, sep="\n")


if __name__ == "__main__":
    main()
