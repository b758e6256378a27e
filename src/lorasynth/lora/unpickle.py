"""Run in a process of its own, with little memory and time: tensors of a PyTorch file -> a safetensors file.

    python unpickle.py IN OUT MEGABYTES SECONDS        OUT is the number of an open file

The one place where a pickle is read: by PyTorch's reader that calls nothing but what makes tensors (``weights_only``), which has
had holes before. Hence the process. It says what came of it as a line of JSON. `legacy` starts it and imports nothing of it.
"""

import json
import resource
import sys
import warnings
from typing import Any

import torch
from safetensors.torch import save


def _limit(megabytes: int, seconds: int) -> None:
    """No more memory than now and ``megabytes``, ``seconds`` of computing, no core dump."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    memory = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _tensors(value: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a state dict, of one under "state_dict", or a tensor by itself; and what was left out beside them.

    Raises:
        TypeError: it is something else.
    """
    left_out: list[str] = []
    if isinstance(value, torch.Tensor):
        value = {"tensor": value}
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        left_out = [f"{key}" for key in value if key != "state_dict"]
        value = value["state_dict"]
    if not isinstance(value, dict):
        raise TypeError(f"an object of type {type(value).__name__}")
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise TypeError(f"a dict with a {type(tensor).__name__} at {key!r:.80}")
    return {key: tensor.detach().clone().contiguous() for key, tensor in value.items()}, left_out


def main(source: str, target: str, megabytes: str, seconds: str) -> dict[str, Any]:
    """See the module's first lines."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _limit(int(megabytes), int(seconds))
    try:
        value = torch.load(source, map_location="cpu", weights_only=True)
        tensors, left_out = _tensors(value)
        with open(int(target), "wb") as file:
            file.write(save(tensors, {"format": "pt"}))
    except TypeError as error:
        return {"holds": str(error)}
    except MemoryError:
        return {"error": "it needs more memory"}
    except Exception as error:  # of any class: the file may be anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {"num_tensors": len(tensors), "left_out": left_out}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
