"""The nodes in ComfyUI itself: its loader, its executor, its LoRA loader, its Stable Diffusion 1.5 (without weights).

    make test-comfyui LORASYNTH_COMFYUI=~/ComfyUI COMFYUI_PYTHON=~/ComfyUI/.venv/bin/python

The name does not begin with test_: pytest collects this file only when it is named, so that no other run can show it as skipped.
"""

import asyncio
import importlib.util
import inspect
import json
import os
import shutil
import sys
import uuid
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorasynth.lora.factors import LoRA
from lorasynth.synthesizer import Synthesizer

from .conftest import PACKAGE

NAMES = ("LorasynthSynthesize", "LorasynthSave")
CHECKS = PACKAGE.parents[1] / "benchmarks" / "check_other_programs.py"


@pytest.fixture(scope="session")
def checkout():
    """ComfyUI's folder."""
    given = os.environ.get("LORASYNTH_COMFYUI", "")
    if not (Path(given) / "folder_paths.py").is_file():
        pytest.fail(f"expected LORASYNTH_COMFYUI to name the folder of a ComfyUI checkout, got {given!r}")
    return Path(given).resolve()


@pytest.fixture(scope="session")
def checks():
    """benchmarks/check_other_programs.py."""
    spec = importlib.util.spec_from_file_location("check_other_programs", CHECKS)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_other_programs"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def comfyui(checkout, checks, tmp_path_factory):
    """ComfyUI's module ``nodes``, with folders of one's own and the package loaded from ``custom_nodes``."""
    root = tmp_path_factory.mktemp("comfyui")
    package = root / "custom_nodes" / "lorasynth"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks.start_comfyui(checkout)
        import folder_paths
        import nodes

        for kind in ("loras", "checkpoints"):
            folder_paths.folder_names_and_paths[kind] = ([str(root / kind)], {".safetensors"})
            (root / kind).mkdir()
        (root / "input").mkdir()
        folder_paths.set_input_directory(str(root / "input"))
        nodes.loaded = asyncio.run(nodes.load_custom_node(str(package), set(), module_parent="custom_nodes"))
    return SimpleNamespace(nodes=nodes, folder_paths=folder_paths, root=root, package=package)


@pytest.fixture(scope="session")
def sd15(comfyui, checks, checkout):
    """ComfyUI's MODEL of Stable Diffusion 1.5."""
    return checks.comfyui_model(checkout, "sd15")


@pytest.fixture
def queue(comfyui, sd15, photo_files, sd15_synthesizer):
    """Function that runs photo -> both nodes by ComfyUI's executor; gives status, messages and the patched MODEL."""
    import execution

    seen = []

    class Model:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "give", "test"
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})
        give = staticmethod(lambda: (sd15,))

    class Look:
        RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "look", "test", True
        INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
        look = staticmethod(lambda model: seen.append(model) or {})

    comfyui.nodes.NODE_CLASS_MAPPINGS.update(TestModel=Model, TestLook=Look)
    shutil.copy(photo_files[0], comfyui.root / "input" / "me.png")
    # Newer versions read how much memory their cache may leave, whatever the kind of cache.
    known = inspect.signature(execution.PromptExecutor).parameters
    caches = {"cache_args": {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}} if "cache_args" in known else {}
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)

    def run(save=None, **given):
        inputs = {
            "model": ["1", 0], "image": ["2", 0], "synthesizer": str(sd15_synthesizer), "encoder": "portraits",
            "consent": "synthetic", "seed": 3, "strength": 0.8, **given,
        }  # fmt: skip
        prompt = {
            "1": {"class_type": "TestModel", "inputs": {}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "me.png"}},
            "3": {"class_type": NAMES[0], "inputs": inputs},
            "4": {"class_type": NAMES[1], "inputs": {"lora": ["3", 1], "name": "me", "if_exists": "add a number"}},
            "5": {"class_type": "TestLook", "inputs": {"model": ["3", 0]}},
        }
        prompt["4"]["inputs"].update(save or {})
        valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("p", prompt, None))
        assert valid, (error, node_errors)
        executor = execution.PromptExecutor(server, **caches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            executor.execute(prompt, str(uuid.uuid4()), {}, outputs)
        return executor.success, executor.status_messages, seen

    yield run
    for name in ("TestModel", "TestLook"):
        del comfyui.nodes.NODE_CLASS_MAPPINGS[name]


def test_loader_registers_both_nodes(comfyui):
    assert comfyui.nodes.loaded is True
    assert set(NAMES) <= comfyui.nodes.NODE_CLASS_MAPPINGS.keys()
    assert comfyui.nodes.NODE_DISPLAY_NAME_MAPPINGS[NAMES[0]] == "Synthesize LoRA from photo"
    assert comfyui.nodes.NODE_CLASS_MAPPINGS[NAMES[0]].RELATIVE_PYTHON_MODULE == "custom_nodes.lorasynth"


def test_nodes_answer_what_the_older_interface_asks(comfyui):
    synthesize, save = (comfyui.nodes.NODE_CLASS_MAPPINGS[name] for name in NAMES)
    types = synthesize.INPUT_TYPES()
    assert types["required"]["model"][0] == "MODEL"
    assert types["required"]["image"][0] == "IMAGE"
    assert types["required"]["seed"] == ("INT", types["required"]["seed"][1])
    assert types["required"]["seed"][1]["control_after_generate"] is False
    assert list(synthesize.RETURN_TYPES) == ["MODEL", "LORASYNTH_LORA"]
    assert (synthesize.FUNCTION, synthesize.CATEGORY) == ("EXECUTE_NORMALIZED", "lorasynth")
    assert save.OUTPUT_NODE is True
    assert json.dumps(synthesize.GET_NODE_INFO_V1())  # what /object_info sends


def test_comfyuis_parser_reads_pyproject(comfyui):
    from comfy_config import config_parser

    config = config_parser.extract_node_configuration(str(comfyui.package))
    assert config.project.name == "lorasynth-nodes"
    assert config.project.supported_comfyui_version == ">=0.3.60"
    assert config.tool_comfy.publisher_id == "lorasynth"


def test_executor_puts_lora_of_file_on_model_and_saves_it(comfyui, queue, sd15, sd15_synthesizer, photo_files):
    import comfy.lora

    success, messages, seen = queue()
    assert success, messages[-1]
    ours = Synthesizer.from_pretrained(sd15_synthesizer, encoder="portraits")(photo_files[0], seed=3)
    saved = LoRA.load(comfyui.folder_paths.get_full_path("loras", "me.safetensors"))
    assert torch.equal(saved.vector, ours.vector.half().float())
    assert sd15.patches == {}
    names = comfy.lora.model_lora_keys_unet(sd15.model, {})
    assert len(seen[-1].patches) == 64
    for m in saved.layout.modules:
        key = names[f"lora_unet_{m.name.replace('.', '_')}"]
        zeros = torch.zeros(m.out_features, m.in_features)
        delta_W = comfy.lora.calculate_weight(seen[-1].patches[key], zeros, key)
        assert torch.allclose(delta_W, 0.8 * saved.delta_W(m.name), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"consent": "not stated"}, "ConsentError", "expected consent self, subject or synthetic"),
        ({"scale": -0.5}, "UsageError", "scale: expected a number from 0 to 20"),
        ({"synthesizer": "no/such/folder"}, "ModelError", "no such folder"),
    ],
)
def test_executor_shows_lorasynths_errors(queue, given, kind, said):
    success, messages, _ = queue(**given)
    assert not success
    event, data = messages[-1]
    assert event == "execution_error"
    assert data["exception_type"].endswith(kind)
    assert said in data["exception_message"]


def test_file_that_is_there_stops_the_prompt_if_asked(comfyui, queue):
    (comfyui.root / "loras" / "taken.safetensors").write_bytes(b"mine")
    success, messages, _ = queue(save={"name": "taken", "if_exists": "refuse"})
    assert not success
    assert "exists already" in messages[-1][1]["exception_message"]
    assert (comfyui.root / "loras" / "taken.safetensors").read_bytes() == b"mine"


def test_model_that_lacks_a_module_is_an_error_not_a_log_line(comfyui, sd15, logged):
    """Of Stable Diffusion XL's LoRA, ComfyUI puts what fits on Stable Diffusion 1.5, and logs the rest."""
    import comfy.sd

    from lorasynth.errors import LayoutError
    from lorasynth.lora.formats import WRITERS
    from lorasynth.lora.layout import Layout

    applying = next(m for name, m in sys.modules.items() if name.endswith("lorasynth.applying"))
    lora = LoRA.random(Layout.preset("sdxl-attn"))
    comfy.sd.load_lora_for_models(sd15, None, WRITERS["kohya"](lora, torch.float16)[0], 1.0, 0.0)
    assert "lora key not loaded" in logged.getvalue()
    with pytest.raises(
        LayoutError, match="expected a MODEL that takes all 560 modules of the LoRA, got one that takes"
    ):
        applying.apply(lora, sd15, 1.0)


@pytest.mark.parametrize("name", ["sd15-attn rank 4", "sd15-w2w rank 4", "sd15-attn ranks 1 to 3"])
def test_our_kohya_file_maps_key_for_key(comfyui, checks, checkout, name):
    (result,) = checks.check("comfyui", checkout, [name])
    assert (result.matched, result.misplaced) == (result.modules, [])
    assert result.error <= checks.TOLERANCE


def test_comfyui_does_not_know_the_drawn_worlds_base(comfyui):
    """As the package's README says: the node is for Stable Diffusion 1.5 and XL."""
    import comfy.model_detection

    from lorasynth.worlds.world import get_world

    assert (
        comfy.model_detection.model_config_from_diffusers_unet(get_world("portraits").base.pipe.unet.state_dict())
        is None
    )


def test_example_workflow_is_one_that_comfyui_runs(comfyui):
    """Each field by the order of its node's inputs, as the frontend stores them, in a prompt that the server's check passes."""
    import execution

    workflow = json.loads((PACKAGE / "example_workflows" / "lora_from_photo.json").read_text())
    links = {number: [str(source), slot] for number, source, slot, *_ in workflow["links"]}
    (comfyui.root / "checkpoints" / "v1-5-pruned-emaonly.safetensors").touch()
    (comfyui.root / "input" / "me.png").touch()
    prompt = {}
    for node in workflow["nodes"]:
        types = comfyui.nodes.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
        inputs = {x["name"]: links[x["link"]] for x in node["inputs"]}
        values = iter(node["widgets_values"])
        for field, (_, *options) in {**types["required"], **types.get("optional", {})}.items():
            if field not in inputs:
                inputs[field] = next(values)
                if options and options[0].get("control_after_generate"):
                    assert next(values) in ("fixed", "randomize")
        left = list(values)
        assert left in ([], ["image"])  # Load Image's upload button
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("p", prompt, None))
    assert valid, (error, node_errors)
    assert sorted(outputs) == ["10", "4"]
