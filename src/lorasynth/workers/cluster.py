"""A function called in many tasks of a Ray cluster, and again elsewhere where machines are lost."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from lorasynth.errors import LorasynthError, MissingExtraError, UsageError, ZooError

RETRIES = 100
"""How often a task starts again. Machines that are taken away are ordinary; a worker that dies each time it starts is not."""


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
    except Exception as error:  # Ray says no more than that of a node that did not start in time
        raise UsageError(
            f"{address}: expected a Ray cluster's address or 'local', got {str(error).splitlines()[0]}; start one with "
            "`ray start --head`"
        ) from None
    return ray
