"""Bases: frozen diffusion models behind one signature.

base.py       what the method asks of one (`Base`), and encoded captions (`Prompts`)
schedule.py   noise, and what a network's answer means
pipeline.py   a diffusers pipeline as a base; a file each for its families, as sd3.py and flux.py
photos.py     photos as a base sees them
sampling.py   its own loss, and the way from noise to latents
render.py     pictures of many LoRAs at once
opening.py    a base by the name of a folder, a file or a hub id
"""

from lorasynth.base.base import Base, Prompts
from lorasynth.base.photos import Photos, encode_captions, encode_photos
from lorasynth.base.pipeline import PipelineBase
from lorasynth.base.render import render
from lorasynth.base.sampling import denoising_loss, masked_error, sample
from lorasynth.base.schedule import Level, Schedule

__all__ = [
    "Base", "Level", "Photos", "PipelineBase", "Prompts", "Schedule", "denoising_loss", "encode_captions", "encode_photos",
    "masked_error", "render", "sample",
]  # fmt: skip
