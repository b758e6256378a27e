"""Building a zoo on a Ray cluster: a task is a worker that shares the folder with all others by leases, whatever its machine.

Ray starts tasks, and starts them again elsewhere when machines are lost; who does what, and that nothing is lost or doubled, is
for `filling`. So workers that Ray started may share a folder with those of ``--workers`` or of a batch system.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lorasynth.devices import use_device
from lorasynth.errors import LorasynthError, MissingExtraError, UsageError, ZooError
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.config import ZooConfig
from lorasynth.zoo.leases import FOLDER_NAME as LEASES_NAME
from lorasynth.zoo.materials import FromPhotos
from lorasynth.zoo.sharing import require_shareable

RETRIES = 100
"""How often a task starts again. Machines that are taken away are ordinary; a worker that dies each time it starts is not."""


def build_zoo_on_cluster(
    config: ZooConfig,
    folder: Path,
    address: str,
    *,
    photos: FromPhotos | None = None,
    tasks: int | None = None,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> tuple[int, str]:
    """`build_zoo` by Ray tasks, one CPU or one GPU each.

    Args:
        config: what to build.
        folder: where, as all machines of the cluster see it; this one need not.
        address: the cluster's, as ``ray.init`` takes it, or "local" for one of this machine, which ends with the build.
        photos: whose LoRAs, on which base; their names are those that all machines see.
        tasks: how many; one a CPU (GPU) of the cluster by default. Those that find no room wait for it.
        device: "cpu" or "cuda".
        report: gets a line now and then.

    Returns:
        How many items the zoo has, and its layout's hash.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: no cluster there, nothing free in it for a task, or a folder that machines cannot share.
        ZooError: the folder is not fit for several processes, or tasks died `RETRIES` times.
    """
    if device not in ("cpu", "cuda"):
        raise UsageError(f"expected device cpu or cuda on a cluster, which says itself which GPU, got {device!r}")
    if address == "local":
        folder = folder.absolute()
    elif not folder.is_absolute():
        raise UsageError(f"{folder}: expected the absolute path of a folder that all machines of the cluster share")
    results = run_on_cluster(
        _work, config, str(folder), device, photos, address=address, tasks=tasks, on_gpu=device == "cuda", report=report
    )
    return results[0]


def _work(config: ZooConfig, folder: str, device: str, photos: FromPhotos | None) -> tuple[int, str]:
    require_shareable(Path(folder) / LEASES_NAME)
    torch.set_num_threads(1)
    use_device(device)
    zoo = build_zoo(config, folder, photos=photos, report=None)
    return len(zoo), zoo.layout.hash


def run_on_cluster(
    work: Callable[..., Any],
    *arguments: object,
    address: str,
    tasks: int | None = None,
    on_gpu: bool = False,
    report: Callable[[str], None] = print,
) -> list[Any]:
    """Call a function in many Ray tasks at once, and in new ones where machines are lost.

    Returns:
        What each call gave.

    Raises:
        LorasynthError: what a call raised; the other calls are ended.
    """
    ray = _connected(address, tasks)
    try:
        kind = "GPU" if on_gpu else "CPU"
        room = int(ray.cluster_resources().get(kind, 0))
        if room == 0:
            raise UsageError(f"{address}: expected a cluster with a {kind} for each task, got none; add machines to it")
        tasks = tasks or room
        options = {"num_cpus": 1, "num_gpus": int(on_gpu), "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        remote = ray.remote(**options)(work)
        report(f"{tasks} tasks on {len(ray.nodes())} machines with {room} {kind}s")
        return ray.get([remote.remote(*arguments) for _ in range(tasks)])
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, LorasynthError) else error) from None
    except ray.exceptions.RayError as error:
        raise ZooError(
            f"{address}: expected tasks to end, got {type(error).__name__}: {str(error).splitlines()[0]}; what is stored stays, "
            "the same command goes on"
        ) from None
    finally:
        ray.shutdown()


def _connected(address: str, tasks: int | None) -> ModuleType:
    """The module ray, connected to a cluster."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "--cluster needs Ray; pip install 'lorasynth[cluster]', here and on all machines of the cluster"
        ) from None
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address == "local":
            ray.init("local", num_cpus=tasks, include_dashboard=False, object_store_memory=80 * 2**20, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{address}: expected a Ray cluster's address or 'local', got {str(error).splitlines()[0]}; start one with "
            "`ray start --head`"
        ) from None
    return ray
