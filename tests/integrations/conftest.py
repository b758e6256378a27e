"""The node package, loaded as ComfyUI loads it, and a synthesizer for Stable Diffusion 1.5 that has learned from random LoRAs.

NOTE: lorasynth is imported inside the fixtures only; see tests/conftest.py.
"""

import importlib.util
import io
import logging
import sys
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture
def logged():
    """What is logged meanwhile, warnings and worse. pytest's plugin for that is off, see pyproject.toml."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    yield handler.stream
    logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="session")
def sd15_synthesizer(tmp_path_factory):
    """Its folder: weights2weights' layout, conditioned on the drawn world's recogniser, fitted to twelve random LoRAs."""
    from lorasynth.canonical import Canonicalizer
    from lorasynth.drawn.encoder import WorldEncoder
    from lorasynth.lora.factors import LoRA
    from lorasynth.lora.layout import Layout
    from lorasynth.prior.baselines import RidgePrior
    from lorasynth.synthesizer import Synthesizer
    from lorasynth.vae import LoRAVAE
    from lorasynth.vae.stem import principal_stem
    from lorasynth.worlds.world import get_world

    layout, world = Layout.preset("sd15-w2w"), get_world("portraits")
    vectors = torch.stack([LoRA.random(layout, seed=i).vector for i in range(12)])
    canonicalizer = Canonicalizer.fit(vectors, layout)
    x = canonicalizer.apply(vectors)
    stem = principal_stem(x, 8, canonicalizer.blocks, local_numbers=2 * layout.num_parameters)
    vae = LoRAVAE.from_stem(x, stem, latent_dim=4, hidden_dim=8).eval()
    people = torch.randn(12, world.encoder.head.out_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ridge = RidgePrior.fit(torch.nn.functional.normalize(people, dim=1), vae.encode(x)[0], lam=0.1)
    folder = tmp_path_factory.mktemp("sd15") / "synthesizer"
    Synthesizer(
        base="sd15", encoder_record=WorldEncoder(world).record, canonicalizer=canonicalizer, vae=vae, priors={"ridge": ridge},
        default_prior="ridge", picture_size=512,
    ).save_pretrained(folder, "# card")  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def photo_files(tmp_path_factory):
    """Two photos of one person, as PNG files."""
    from lorasynth.encoders.images import to_image
    from lorasynth.worlds.world import get_domain

    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        to_image(get_domain("portraits").photos([21], [number], 200)[0]).save(folder / f"{number}.png")
    return [folder / "0.png", folder / "1.png"]


@pytest.fixture(scope="session")
def load_image():
    """Function from files to an IMAGE, with the values that ComfyUI's Load Image gives."""
    import numpy as np
    from PIL import Image

    def load(*files):
        arrays = [np.array(Image.open(f).convert("RGB")).astype(np.float32) / 255.0 for f in files]
        return torch.stack([torch.from_numpy(a) for a in arrays])

    return load


@pytest.fixture(scope="session")
def comfy():
    """The stand-ins."""
    from .standin import Comfy

    return Comfy()


@pytest.fixture
def loras(comfy, tmp_path):
    """ComfyUI's folder for LoRA files."""
    folder = tmp_path / "loras"
    folder.mkdir()
    comfy.loras = str(folder)
    return folder


@pytest.fixture(scope="module")
def package(comfy):
    """The package, imported over the stand-ins, with its memory for a whole file of tests."""
    name = "lorasynth_nodes"
    spec = importlib.util.spec_from_file_location(name, PACKAGE / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for known, stand_in in comfy.modules.items():
            patch.setitem(sys.modules, known, stand_in)
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        yield module
    for loaded in [key for key in sys.modules if key.startswith(f"{name}.")]:
        del sys.modules[loaded]
