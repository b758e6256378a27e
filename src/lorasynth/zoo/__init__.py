"""Zoos: many LoRAs of one layout, trained at once and stored."""

from lorasynth.zoo.store import Item, Zoo

__all__ = ["Item", "Zoo"]
