"""How much of the stack each verb imports: counted, so that no second of start-up comes back unseen."""

import json
import subprocess
import sys

import pytest
import torch

from lorasynth.encoders.images import to_image
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.worlds.world import get_domain
from lorasynth.zoo.store import Zoo

from .making import sd15_layout

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "torch._dynamo", "onnxruntime")
WATCHED = """
import contextlib, io, json, sys
from lorasynth.cli import main
sys.argv = ["lorasynth", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""


def imported_by(*words):
    code = WATCHED.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=240)
    assert "Traceback" not in done.stderr, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    layout = sd15_layout()
    made = Zoo.create(tmp_path_factory.mktemp("zoo") / "zoo", layout, {"a": 1}, None)
    made.append("s", [1], ["train"], LoRA.random(layout).vector[None], torch.randn(1, 1, 8), "here", "CC0")
    return made.folder


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_looking_at_a_zoo_imports_no_torch(zoo, verb, tmp_path):
    assert imported_by("zoo", verb, zoo, "--json", tmp_path / "seen.json") == []
    assert json.loads((tmp_path / "seen.json").read_text())["items"] == 1


@pytest.mark.integration
def test_doctor_imports_nothing_heavy():
    assert imported_by("doctor") == ["torch"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_inspect_imports_no_torch(dtype, tmp_path):
    path = LoRA.random(Layout.preset("sd15-w2w")).save(tmp_path / "lora.safetensors", dtype=dtype)
    assert imported_by("inspect", path, "--json", tmp_path / "seen.json") == []
    assert json.loads((tmp_path / "seen.json").read_text())["num_modules"] == 64


def test_resize_imports_torch_alone(tmp_path):
    path, out = LoRA.random(Layout.preset("sd15-w2w")).save(tmp_path / "lora.safetensors"), tmp_path / "out.safetensors"
    assert imported_by("resize", path, "--rank", "1", "-o", out) == ["torch"]
    assert out.is_file()


@pytest.mark.integration
def test_synthesize_imports_nothing_heavy(tmp_path):
    to_image(get_domain("portraits").photos([3], [0], 128)[0]).save(tmp_path / "photo.png")
    out = tmp_path / "me.safetensors"
    assert imported_by("synthesize", tmp_path / "photo.png", "--consent", "synthetic", "-o", out) == ["torch"]
    assert out.is_file()
