"""LoRA <-> canonical scaled vector: one form for all the (B, A) pairs that mean the same update."""

from lorasynth.canonical.canonicalizer import Canonicalizer, Metric

__all__ = ["Canonicalizer", "Metric"]
