"""LoRA files made by code, good and bad ones: nothing is stored, nothing here is ever unpickled."""

import io
import json
import os
import pickle
import struct
import zipfile

import torch
from safetensors.torch import save

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
Q, K = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k"
KOHYA_Q, KOHYA_K = (f"lora_unet_{n.replace('.', '_')}" for n in (Q, K))
DOWN, UP, ALPHA = f"{KOHYA_Q}.lora_down.weight", f"{KOHYA_Q}.lora_up.weight", f"{KOHYA_Q}.alpha"
DOWN_K, UP_K, ALPHA_K = f"{KOHYA_K}.lora_down.weight", f"{KOHYA_K}.lora_up.weight", f"{KOHYA_K}.alpha"
NEW_A, NEW_B = f"unet.{Q}.lora_A.weight", f"unet.{Q}.lora_B.weight"
KEYS = ("lora_unet_x_to_q.lora_down.weight", "lora_unet_x_to_q.lora_up.weight")
SGM_K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
SAME_K = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def write(folder, content, name="file.safetensors"):
    (folder / name).write_bytes(content)
    return folder / name


def at(name, content):
    """A maker of a file of that name."""
    return lambda folder: write(folder, content, name)


# -- containers


def pack(header, data=b"", *, length=None):
    """The bytes of a safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def unpack(content):
    """The header's text and the data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def entry(begin, end, shape=(2, 2), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def two(first, second, data=b"\0" * 32):
    return pack({KEYS[0]: first, KEYS[1]: second}, data)


def one(first, key=KEYS[0]):
    return pack({key: first}, b"\0" * 16)


def twice(first, second):
    """A header with one key twice, which no JSON writer makes."""
    text = f'{{"{KEYS[0]}": {json.dumps(first)}, "{KEYS[0]}": {json.dumps(second)}}}'
    return pack(text.encode(), b"\0" * 32)


def a_zip(size=1):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(size))
    return buffer.getvalue()


class Evil:
    """Pickles to a call that, if anybody ever unpickled it, would leave a file behind."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def evil(function, *arguments, protocol):
    return lambda folder: pickle.dumps(Evil(function, *arguments, f"touch {folder}/pwned"), protocol)


def node(kind):
    def make(folder):
        os.mknod(folder / "file.safetensors", kind | 0o600)
        return folder / "file.safetensors"

    return make


def sparse(folder):
    with (folder / "file.safetensors").open("wb") as file:
        file.truncate(200 * 2**30)
    return folder / "file.safetensors"


def linked(name):
    def make(folder):
        (folder / "file.safetensors").symlink_to(name)
        return folder / "file.safetensors"

    return make


def subfolder(*names):
    def make(folder):
        (folder / "sub").mkdir()
        for name in names:
            (folder / "sub" / name).write_bytes(b"{}")
        return folder / "sub"

    return make


# -- LoRAs


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest_difference(one, other):
    """Of two matrices as large as a model's, of which torch's assert_close would make a dozen copies."""
    assert one.shape == other.shape
    return (one - other).abs_().max().item()


def kohya():
    return {
        DOWN: numbers(2, 8), UP: numbers(6, 2, seed=1), ALPHA: torch.tensor(2.0),
        DOWN_K: numbers(2, 4), UP_K: numbers(6, 2, seed=2), ALPHA_K: torch.tensor(2.0),
    }  # fmt: skip


def new_style():
    return {NEW_A: numbers(2, 8), NEW_B: numbers(6, 2, seed=1)}


def peft_style():
    return {f"base_model.model.{k.removeprefix('unet.')}": v for k, v in new_style().items()}


def kohya_but(**changes):
    """The good file with tensors replaced (or removed, by None); names are those of the constants above."""
    names = {"down": DOWN, "up": UP, "alpha": ALPHA}
    tensors = kohya() | {names.get(k, k): v for k, v in changes.items()}
    return {k: v.contiguous() for k, v in tensors.items() if v is not None}


def but(**changes):
    return save(kohya_but(**changes))


def wide(rank, alpha=None):
    """The good file with one module at a rank above its width, of which two do something."""
    down, up = numbers(2, 8), numbers(6, 2, seed=1)
    more = rank - 2
    return but(
        down=torch.cat([down, numbers(more, 8)]), up=torch.cat([up, torch.zeros(6, more)], 1),
        alpha=torch.tensor(float(alpha or rank)),
    )  # fmt: skip


def loha(name, inputs=8, out=6, rank=2):
    """A LyCORIS file's tensors of one module."""
    shapes = {"a": (out, rank), "b": (rank, inputs)}
    return {
        f"{name}.hada_w{i}_{half}": numbers(*shape, seed=10 * i + len(half)) for i in (1, 2) for half, shape in shapes.items()
    }  # fmt: skip


def spoiled(value):
    tensor = numbers(2, 8)
    tensor[1, 3] = value
    return tensor


def renamed(old, new):
    return save({k.replace(old, new): v for k, v in kohya().items()})


def with_key(key, shape=(2, 8)):
    return save(kohya() | {key: numbers(*shape)})


def both(*names):
    """A kohya file of one pair for each name."""
    return save({f"{n}.lora_{h}.weight": numbers(*s) for n in names for h, s in (("down", (2, 4)), ("up", (6, 2)))})


def pair_of(name, width, out, rank=2):
    """The two tensors of one layer under kohya's names."""
    return {f"{name}.lora_down.weight": numbers(rank, width), f"{name}.lora_up.weight": numbers(out, rank, seed=1)}


def said(text):
    """A new-style file with that adapter metadata."""
    return save(new_style(), {"lora_adapter_metadata": text})


def adapter(**config):
    return said(json.dumps({f"unet.{k}": v for k, v in ({"r": 2, "lora_alpha": 2} | config).items()}))


def peft(config):
    """A PEFT folder with that text, or record, as its configuration."""

    def make(folder):
        folder = folder / "adapter"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(save(peft_style()))
        if config is not None:
            text = json.dumps({"r": 2, "lora_alpha": 2} | config) if isinstance(config, dict) else config
            (folder / "adapter_config.json").write_text(text)
        return folder

    return make


def peft_pipe(folder):
    path = peft(None)(folder)
    os.mkfifo(path / "adapter_config.json")
    return path


def spaced(content, before=b"", after=b""):
    """The same file with a padded header, as writers align them."""
    text, data = unpack(content)
    return pack(before + text + after, data)


def both_halves(name):
    """A new-style file of one pair."""
    return save({f"{name}.lora_{h}.weight": numbers(4, 4) for h in "AB"})


GOOD = two(entry(0, 16), entry(16, 32))
WHOLE = {KEYS[0]: entry(0, 16)}
