"""A real Ray cluster of two nodes, one killed in the middle: a zoo, or prepared photos, are those of one process alone."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorasynth.cli import main
from lorasynth.errors import MissingExtraError, UsageError, ZooError
from lorasynth.recipes import get_recipe
from lorasynth.workers.cluster import run_on_cluster
from lorasynth.zoo.cluster import build_zoo_on_cluster
from lorasynth.zoo.filling import fill
from lorasynth.zoo.store import Zoo
from lorasynth.zoo.verify import verify

from ..gallery import test_prepare
from ..gallery.test_prepare import PART, Pixels, contents, make_people
from ..gallery.test_prepare import run as prepare_once
from . import planted, test_kills
from .test_kills import BANK, digests, make, one_worker

BANKS = 24
SMALL_STORE = 80 * 2**20  # bytes; about the least that Ray takes


def work(folder, victim):
    """`test_kills.build` by a task: tells each bank that it begins, and on one node hangs in its third."""
    import ray

    node, begun = ray.get_runtime_context().get_node_id(), []

    def slowly(persons):
        begun.append(persons[0])
        (folder.parent / f"begun-{node}-{persons[0]}").touch()
        time.sleep(600 if node == victim and len(begun) == 3 else 0.05)
        return make(persons)

    zoo = Zoo.create(folder, planted.layout(), {"rank": 2}, torch.linspace(-1, 1, planted.layout().num_parameters))
    banks = {f"shard-{k:05d}": range(k * BANK, (k + 1) * BANK) for k in range(BANKS)}
    return len(
        fill(zoo, banks, slowly, split=lambda person: "train", source="made", licence="CC0", expires_after_s=5.0)
    )


def prepare_photos(people, folder, victim):
    """`prepare_once` by a task: on one node it hangs in the middle of a part, and on the other waits for that."""
    import ray

    encoder, hung = Pixels(), folder.parent / "hung"
    read, hangs = encoder.read, ray.get_runtime_context().get_node_id() == victim
    while not hangs and not hung.exists():
        time.sleep(0.05)

    def read_until_it_hangs(photos):
        if hangs and encoder.seen == PART // 2:
            hung.touch()
            time.sleep(600)
        return read(photos)

    encoder.read = read_until_it_hangs
    prepare_once(people, folder, encoder, expires_after_s=5.0)


def refuse():
    raise ZooError("expected what is not there")


@pytest.fixture(scope="module")
def cluster():
    """A head with one CPU and another node with one."""
    import ray
    from ray.cluster_utils import Cluster

    # Workers of Ray have not got the tests' folder to import from.
    for module in (planted, test_kills, test_prepare, sys.modules[__name__]):
        ray.cloudpickle.register_pickle_by_value(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": SMALL_STORE, "include_dashboard": False},
        )
        yield made
        made.shutdown()


@pytest.fixture
def victim(cluster):
    """A second node, to be killed."""
    return cluster.add_node(num_cpus=1, object_store_memory=SMALL_STORE)


@pytest.mark.slow
def test_node_is_killed_and_nothing_is_lost_or_doubled(tmp_path, cluster, victim):
    folder = tmp_path / "many"

    def kill():
        while len(list(tmp_path.glob(f"begun-{victim.node_id}-*"))) < 3:
            time.sleep(0.05)
        cluster.remove_node(victim, allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    lines = []
    counts = run_on_cluster(work, folder, victim.node_id, address=cluster.address, tasks=2, report=lines.append)
    thread.join()
    assert counts == [BANKS * BANK] * 2
    assert lines == ["2 tasks on 2 machines with 2 CPUs"]
    banks = [path.name.rpartition("-")[2] for path in tmp_path.glob("begun-*")]
    assert len(banks) == BANKS + 1  # the victim's third, again on the other node
    assert len(set(banks)) == BANKS
    assert verify(folder).faults == []
    assert digests(folder) == digests(one_worker(tmp_path / "one", BANKS * BANK))


@pytest.mark.slow
def test_node_is_killed_and_photos_are_prepared_as_by_one(tmp_path, cluster, victim):
    people, folder = make_people(tmp_path / "people"), tmp_path / "many"

    def kill():
        while not (tmp_path / "hung").exists():
            time.sleep(0.05)
        cluster.remove_node(victim, allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    run_on_cluster(prepare_photos, people, folder, victim.node_id, address=cluster.address, tasks=2)
    thread.join()
    prepare_once(people, tmp_path / "one")
    assert contents(folder) == contents(tmp_path / "one")


@pytest.mark.slow
def test_what_a_task_says_is_wrong_comes_out(cluster):
    with pytest.raises(ZooError, match="expected what is not there"):
        run_on_cluster(refuse, address=cluster.address, tasks=1)


@pytest.mark.slow
def test_cluster_without_gpus_is_refused_for_cuda(tmp_path, cluster):
    config = get_recipe("portraits_tiny").zoo
    with pytest.raises(UsageError, match="expected a cluster with a GPU for each task, got none"):
        build_zoo_on_cluster(config, tmp_path, cluster.address, device="cuda")


def test_no_cluster_there_is_said(tmp_path):
    config = get_recipe("portraits_tiny").zoo
    with pytest.raises(UsageError, match="nonsense: expected a Ray cluster's address or 'local'"):
        build_zoo_on_cluster(config, tmp_path, "nonsense")


def test_ray_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    def init(*_, **__):
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(
        UsageError, match=r"^local: expected .*, got The current node timed out during startup\.; start one"
    ):
        build_zoo_on_cluster(get_recipe("portraits_tiny").zoo, tmp_path, "local")


def test_folder_that_machines_cannot_share_is_refused_first():
    config = get_recipe("portraits_tiny").zoo
    for folder in ("runs/zoo", "s3://bucket/zoo"):
        with pytest.raises(UsageError, match="expected the absolute path of a folder that all machines"):
            build_zoo_on_cluster(config, Path(folder), "ray://127.0.0.1:10001")
    with pytest.raises(UsageError, match="expected device cpu or cuda on a cluster"):
        build_zoo_on_cluster(config, Path("/zoo"), "auto", device="cuda:1")


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lorasynth\[cluster\]'"):
        build_zoo_on_cluster(get_recipe("portraits_tiny").zoo, tmp_path, "local")
    monkeypatch.setattr(
        sys, "argv", ["lorasynth", "zoo", "build", "portraits_tiny", "--out", str(tmp_path / "z"), "--cluster", "local"]
    )
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "lorasynth[cluster]" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()
