"""lorasynth: a photo goes in, a LoRA comes out."""

__version__ = "0.1.0"
