"""Building a zoo on a Ray cluster: a task is a worker that shares the folder with all others by leases, whatever its machine.

Ray starts tasks, and starts them again elsewhere when machines are lost. Who does what, and that nothing is lost or doubled, is
for `filling`. So workers that Ray started may share a folder with those of ``--workers`` or of a batch system.
"""

from collections.abc import Callable
from pathlib import Path

from lorasynth.devices import begin_worker
from lorasynth.errors import UsageError
from lorasynth.subjects.source import PhotoSource
from lorasynth.workers.cluster import run_on_cluster
from lorasynth.workers.leases import FOLDER_NAME as LEASES_NAME
from lorasynth.workers.sharing import require_shareable
from lorasynth.zoo.build import build_zoo
from lorasynth.zoo.config import ZooConfig


def build_zoo_on_cluster(
    config: ZooConfig,
    folder: Path,
    address: str,
    *,
    photos: PhotoSource | None = None,
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
        ZooError: the folder is not fit for several processes, or tasks died `workers.cluster.RETRIES` times.
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


def _work(config: ZooConfig, folder: str, device: str, photos: PhotoSource | None) -> tuple[int, str]:
    require_shareable(Path(folder) / LEASES_NAME)
    begin_worker(device)
    zoo = build_zoo(config, folder, photos=photos, report=None)
    return len(zoo), zoo.layout.hash
