"""Results on disk: each cell once, whole or not there, of one zoo; and the page that is made of them."""

import json
import multiprocessing
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from evidence import get_experiment
from evidence.experiment import Claim, Curves, Experiment, Line, more
from evidence.report import page
from evidence.results import ResultsFile
from evidence.runner import load, planned, results_file, run
from lorasynth.cli.app import app
from lorasynth.errors import UsageError, ZooError
from lorasynth.storage.reading import read_json

pytestmark = pytest.mark.integration  # on a trained zoo
RUNS = []


def cell(context, config, seed):
    RUNS.append((config["value"], seed))
    if config["value"] == "too small":
        raise ZooError("expected a larger zoo")
    if config["value"] == "nan":
        return {"similarity": [float("nan")]}
    return {"similarity": [config["value"] + 0.01 * seed, config["value"]], "loras": float(len(context.train))}


def sized_cell(context, config, seed):
    return cell(context, config, seed) | {"loras": 100 * config["value"]}


def toy(**cells):
    claim = Claim(text="b is better", source="nobody", criterion=more("similarity", "b", "a"))
    return Experiment(
        name="toy", title="Two numbers", run=cell, claims=(claim,), plotted=("similarity",),
        cells={name: {"value": value} for name, value in (cells or {"a": 0.1, "b": 0.5}).items()},
    )  # fmt: skip


@pytest.fixture
def go(zoo, tmp_path):
    RUNS.clear()

    def start(experiment, **settings):
        return run(
            experiment,
            zoo,
            tmp_path,
            **{"recipe": "portraits_tiny", "people": 2, "seeds": 2, "report": lambda _: None} | settings,
        )

    return start


def without(tmp_path, cell, seed):
    """Remove a result of the toy."""
    file = results_file(toy(), tmp_path)
    left = [record for key, record in file.read().items() if key != (cell, seed)]
    file.path.unlink()
    for record in left:
        file.add(record)


def test_result_is_one_line_that_says_all(go, tmp_path, zoo):
    written = go(toy())
    lines = (tmp_path / "toy.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == written
    assert [(r["cell"], r["seed"]) for r in written] == [(c, s) for s in (0, 1) for c in "ab"]
    record = written[2]
    assert {k: record[k] for k in ("experiment", "cell", "config", "seed", "people", "recipe")} == {
        "experiment": "toy", "cell": "a", "config": {"value": 0.1}, "seed": 1, "people": 2, "recipe": "portraits_tiny"
    }  # fmt: skip
    assert record["figures"] == {"similarity": [0.11, 0.1], "loras": 24.0}
    assert record["zoo"]["loras"] == len(zoo) == 32
    assert record["command"] == "lorasynth experiment toy --zoo ZOO --seeds 2 --recipe portraits_tiny --people 2"
    assert record["seconds"] >= 0
    assert {"version", "commit"} <= record.keys()
    assert str(tmp_path) not in lines[2]


def test_what_is_there_is_not_run_again_and_what_changed_is(go, tmp_path):
    go(toy(), seeds=1)
    assert len(RUNS) == 2
    assert len(go(toy(), seeds=2)) == 2
    assert RUNS[2:] == [(0.1, 1), (0.5, 1)]
    without(tmp_path, "b", 0)
    go(toy())
    assert RUNS[4:] == [(0.5, 0)]
    go(toy(a=0.2, b=0.5))
    assert RUNS[5:] == [(0.2, 0), (0.2, 1)]


def test_as_many_seeds_are_run_and_counted_as_are_asked_for(go, tmp_path):
    assert len(go(toy(), seeds=12)) == 2 * 12
    results, records = load(toy(), tmp_path)
    assert [run["similarity"][0] for run in results["a"]] == pytest.approx([0.1 + 0.01 * seed for seed in range(12)])
    assert [r["seed"] for r in records[::2]] == list(range(12))


def test_cells_of_a_seed_are_of_one_zoo_and_zoos_are_alike(go, zoo, tmp_path):
    go(toy(), seeds=1)
    swapped = (replace(zoo.items[0], sha256=zoo.items[1].sha256), *zoo.items[1:])
    other = replace(zoo, items=swapped)
    again = partial(run, toy(), other, tmp_path, recipe="portraits_tiny", people=2)
    assert len(again(seeds=2)) == 2  # seed 0 is there, whole
    results, records = load(toy(), tmp_path)
    assert len(results["a"]) == 2
    assert len({r["zoo"]["fingerprint"] for r in records}) == 2
    without(tmp_path, "b", 0)
    with pytest.raises(
        UsageError, match=r"toy\.jsonl: cell 'a', seed 0: expected a result of this zoo .* got one of another"
    ):
        again(seeds=2)
    file = results_file(toy(), tmp_path)
    file.add(file.read()["b", 1] | {"seed": 0})
    with pytest.raises(UsageError, match="expected results of zoos built alike, one zoo a seed"):
        load(toy(), tmp_path)


def test_seeds_of_zoos_of_unlike_size_do_not_mix(go, zoo, tmp_path):
    go(toy(), seeds=1)
    run(toy(), replace(zoo, items=zoo.items[:-1]), tmp_path, recipe="portraits_tiny", people=2, seeds=2)
    with pytest.raises(UsageError, match="expected results of zoos built alike"):
        load(toy(), tmp_path)


def test_figure_that_is_no_number_leaves_no_result(go, tmp_path):
    with pytest.raises(UsageError, match=r"expected finite figures, got nan"):
        go(toy(a="nan"))
    assert not results_file(toy(), tmp_path).path.exists()


def test_seeds_of_all_cells_count_and_old_settings_do_not(go, tmp_path):
    go(toy(), seeds=3)
    without(tmp_path, "b", 1)
    results, records = load(toy(), tmp_path)
    assert [run["similarity"][0] for run in results["a"]] == [0.1, 0.12]
    assert len(records) == 4
    # Of changed settings there is no result: what is left is the other cell's.
    results, records = load(toy(a=0.3, b=0.5), tmp_path)
    assert results.keys() == {"b"}
    assert [(r["cell"], r["seed"]) for r in records] == [("b", 0), ("b", 2)]


def test_cell_that_the_zoo_is_too_small_for_stops_no_other(go, tmp_path):
    said, small = [], toy(a="too small", b=0.5, c=0.7)
    with pytest.raises(ZooError, match="2 of 6 cells cannot be run on this zoo; toy a: expected a larger zoo"):
        go(small, report=said.append)
    assert sum("expected a larger zoo" in line for line in said) == 2
    results, _ = load(small, tmp_path)
    assert {cell: len(runs) for cell, runs in results.items()} == {"b": 2, "c": 2}
    text = page([small], tmp_path, tmp_path / "page.md")[tmp_path / "page.md"]
    assert "Cells not run: `a`." in text
    assert "(refuted: below) | – | not run |" in text
    assert "| c | 0.7" in text


def test_line_that_is_no_result_is_named(go, tmp_path):
    go(toy())
    path = results_file(toy(), tmp_path).path
    lines = path.read_bytes().splitlines(keepends=True)
    for content in (b"[]\n", b"{\n", b'{"config": 1}\n', b"\xff\n", lines[0]):
        path.write_bytes(b"".join([lines[0], content, *lines[2:]]))
        with pytest.raises(UsageError, match=r"toy\.jsonl: line 2: expected one result for each cell and seed, got b"):
            load(toy(), tmp_path)
        with pytest.raises(UsageError, match=r"line 2"):
            go(toy())


def add_many(path, cell):
    for seed in range(20):
        ResultsFile(path).add({"cell": cell, "seed": seed, "config": {}, "figures": {"similarity": [0.5]}})


def test_results_of_processes_at_once_are_all_there(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_many, args=(tmp_path / "toy.jsonl", cell)) for cell in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(ResultsFile(tmp_path / "toy.jsonl").read()) == {(cell, seed) for cell in "abc" for seed in range(20)}


def test_page_holds_each_claim_with_figure_verdict_and_file(go, tmp_path):
    go(toy())
    where = tmp_path / "docs/page.md"
    text = page([toy(), get_experiment("sampler")], tmp_path / "results", where)[where]
    assert "Not run in this world: `toy`, `sampler`." in text
    files = page([toy(), get_experiment("sampler")], tmp_path, where)
    text = files[where]
    assert "| b is better (nobody) |" in text
    assert "similarity, b minus a: 0.400 (0.400 to 0.400) | **confirmed** |" in text
    # One draw in sixteen takes the larger seed and the larger person twice, which is more than 2.5 %.
    assert "| a | 0.103 (0.100 to 0.110) | 24 | 0 |" in text
    assert "Seeds 0, 1. Results: [toy.jsonl](../toy.jsonl)." in text
    assert "Of 1 claims of the paper's and its digest's: 1 confirmed. No claim of our own was tested." in " ".join(
        text.split()
    )
    assert "Not run in this world: `sampler`." in text
    assert "sampler](#sampler)" not in text
    assert text.startswith("# The evidence: portraits_tiny\n")
    assert f"    lorasynth experiment all --zoo ZOO --recipe portraits_tiny --people 2 --out {tmp_path}\n" in text
    assert f"    lorasynth experiment --out {tmp_path} --report {where} --force\n" in text
    assert "lorasynth experiment toy --zoo ZOO --seeds 2" in text
    # The same files, the same page.
    assert page([toy(), get_experiment("sampler")], tmp_path, where) == files
    assert files.keys() == {where, tmp_path / "docs/page/toy.svg"}
    assert "![similarity of each cell](page/toy.svg)" in text
    drawn = ElementTree.fromstring(files[tmp_path / "docs/page/toy.svg"])
    assert {"a", "b"} <= {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.parametrize("other", [{"people": 3}, {"recipe": "portraits"}])
def test_results_of_other_people_or_recipes_are_not_replaced(go, tmp_path, other):
    go(toy())
    before = (tmp_path / "toy.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"expected no result yet or one of recipe .* choose another --out"):
        go(toy(), **other)
    assert (tmp_path / "toy.jsonl").read_bytes() == before


def test_page_commands_as_many_seeds_as_it_has(go, tmp_path):
    go(toy())
    results = tmp_path / "toy.jsonl"
    results.write_text(results.read_text().replace("--seeds 2", "--seeds 5"))  # a run that was not finished
    where = tmp_path / "page.md"
    text = page([toy()], tmp_path, where)[where]
    assert "--seeds 2" in text
    assert "--seeds 5" not in text


def test_page_shows_curves_and_what_follows_from_all_cells(go, tmp_path):
    def further(results):
        return [f"{len(results)} cells of {len(results['a'])} seeds."]

    drawn = Curves(
        x="loras", y="likeness", lines=(Line("both", "similarity", ("a", "b")), Line("level", "similarity", ("a",)))
    )
    experiment = replace(toy(), run=sized_cell, curves=(drawn,), further=further)
    go(experiment)
    where = tmp_path / "docs/page.md"
    files = page([experiment], tmp_path, where)
    assert "2 cells of 2 seeds." in files[where].splitlines()
    assert "![likeness over loras](page/toy-likeness-over-loras.svg)" in files[where]
    svg = ElementTree.fromstring(files[tmp_path / "docs/page/toy-likeness-over-loras.svg"])
    assert {"both", "level", "loras", "likeness", "10", "50"} <= {e.text for e in svg.iter() if e.text}


def test_two_processes_give_what_one_gives(zoo, tmp_path):
    """A real experiment whose cells take no training."""
    gauge = get_experiment("gauge")
    small = replace(gauge, cells={"products": gauge.cells["products"]})
    settings = {"recipe": "portraits_tiny", "people": 2, "report": lambda _: None}
    run(small, zoo, tmp_path / "one", seeds=2, **settings)
    run(small, zoo, tmp_path / "two", seeds=2, workers=2, **settings)
    for seed in (0, 1):
        one, two = (results_file(small, tmp_path / n).read()["products", seed] for n in ("one", "two"))
        assert one["figures"] == two["figures"]


# --- The command ---------------------------------------------------------------------------------------------------------


def test_command_lists_and_refuses(tmp_path):
    listed = CliRunner().invoke(app, ["experiment", "--list"])
    assert listed.exit_code == 0
    assert "conditioning" in listed.output
    for words, message in (
        ([], "expected an experiment among"),
        (["nonsense"], "got 'nonsense'"),
        (["sampler"], "expected --zoo FOLDER to run 50 cells on"),
        (["sampler", "--zoo", "nowhere"], "expected a zoo"),
    ):
        result = CliRunner().invoke(app, ["experiment", *words, "--out", str(tmp_path)])
        assert message in str(result.exception)


def test_installed_package_without_its_checkout_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("lorasynth.cli.experiments.FOLDER", tmp_path / "experiments")
    result = CliRunner().invoke(app, ["experiment", "--list"])
    assert "expected the experiments of a checkout, got an installed package without them" in str(result.exception)


def test_where_every_cell_has_a_result_the_command_needs_no_zoo(tmp_path):
    experiment = get_experiment("sampler")
    out = tmp_path / "results"
    for task in planned(experiment, out, seeds=2):
        figures = {"similarity": [0.1, 0.2], "similarity2": [0.1, 0.2]}
        zoo = {"fingerprint": "f", "loras": 3, "layout": "l"}
        task.results.add(task.record | {"zoo": zoo, "figures": figures, "seconds": 1.0})
    words = ["experiment", "sampler", "--seeds", "2", "--out", str(out), "--json", str(tmp_path / "verdicts.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.exception
    assert "all 20 cells have a result" in result.output
    assert len(read_json(tmp_path / "verdicts.json")["claims"]) == len(experiment.claims)


def test_command_writes_the_page_of_no_results(tmp_path):
    target = tmp_path / "evidence.md"
    result = CliRunner().invoke(app, ["experiment", "--report", str(target), "--out", str(tmp_path / "results")])
    assert result.exit_code == 0, result.exception
    text = target.read_text()
    assert "No cell has been run yet." in text
    assert "Not run in this world: `targets`, `conditioning`," in text


def test_page_of_two_worlds_is_refused(go, tmp_path):
    for name, recipe in (("one", "portraits"), ("two", "brushes")):
        experiment = replace(toy(), name=name)
        for task in planned(experiment, tmp_path, recipe=recipe, seeds=1):
            zoo = {"fingerprint": "f", "loras": 3, "layout": "l"}
            task.results.add(task.record | {"zoo": zoo, "figures": {"similarity": [0.1, 0.2]}, "seconds": 1.0})
    both = [replace(toy(), name=name) for name in ("one", "two")]
    with pytest.raises(UsageError, match=r"expected results of one recipe, got \['brushes', 'portraits'\]"):
        page(both, tmp_path, tmp_path / "page.md")
    assert page(both[:1], tmp_path, tmp_path / "page.md")
