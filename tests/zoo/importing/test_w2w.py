"""weights2weights' release, in its exact file format: read row by row, its pickles unopened."""

import json
import os
import zipfile

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner

from lorasynth.cli.app import app
from lorasynth.errors import UsageError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.layout import Layout
from lorasynth.zoo import Zoo
from lorasynth.zoo.importing.w2w import candidates_of, open_rows

ROWS = 7


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Seven LoRAs as `torch.save` writes a matrix, a table of five people, and embeddings."""
    folder = tmp_path_factory.mktemp("w2w")
    matrix = 0.02 * torch.randn(ROWS, 99_648, generator=torch.Generator().manual_seed(0))
    torch.save(matrix, folder / "all_weights.pt")
    np.save(folder / "faces.npy", np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float32))
    (folder / "people.csv").write_text("row,person\n" + "".join(f"{n},{n % 5}\n" for n in range(ROWS)))
    return folder, matrix


def test_rows_are_read_where_they_lie(release):
    folder, matrix = release
    rows = open_rows(folder / "all_weights.pt", 99_648)
    assert len(rows) == ROWS
    assert all(torch.equal(rows[n], matrix[n]) for n in (0, 3, ROWS - 1))


def test_zoo_of_it_holds_the_updates_that_were_applied(release, tmp_path):
    folder, matrix = release
    arguments = ["zoo", "import", "--w2w", str(folder), "--table", str(folder / "people.csv"), "--licence", "w2w"]
    arguments += [
        "--embeddings",
        str(folder / "faces.npy"),
        "--out",
        str(tmp_path / "zoo"),
        "--json",
        str(tmp_path / "r"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r").read_text())["imported"] == ROWS
    zoo = Zoo.open(tmp_path / "zoo")
    assert zoo.layout == Layout.preset("sd15-w2w", 1)
    assert {item.person for item in zoo.items} == set(range(5))
    stored = {id: vector for id, vector, _ in zoo.rows("shard-00000")}["w2w-000004"]
    name = zoo.layout.modules[5].name
    raw = LoRA(zoo.layout, matrix[4])
    assert LoRA(zoo.layout, stored).delta_W(name).allclose(27 * raw.delta_W(name), rtol=5e-3, atol=1e-5)


def test_same_row_twice_counts_once_and_diverged_one_is_refused(release, tmp_path):
    folder, matrix = release
    changed = matrix.clone()
    changed[2], changed[5, 17] = matrix[1], torch.nan
    other = tmp_path / "w2w"
    other.mkdir()
    torch.save(changed, other / "all_weights.pt")
    from lorasynth.zoo.importing.importer import import_zoo

    candidates, layout = candidates_of(other, folder / "people.csv", folder / "faces.npy")
    zoo, outcomes = import_zoo(candidates, tmp_path / "zoo", layout, licence="w2w", report=lambda _: None)
    assert [o.outcome for o in outcomes] == [
        "imported", "imported", "duplicate", "imported", "imported", "refused", "imported"
    ]  # fmt: skip
    assert len(zoo) == ROWS - 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.save(torch.zeros(5, 99_647), p), "expected uncompressed float32 rows of 99648 numbers"),
        (lambda p: torch.save([torch.zeros(1, 99_648), torch.zeros(1)], p), "expected one tensor"),
        (lambda p: p.write_bytes(b"no zip"), "a PyTorch zip, got File is not a zip file"),
        (lambda p: torch.save(torch.zeros(1), p, _use_new_zipfile_serialization=False), "a PyTorch zip"),
        (lambda p: None, "No such file"),
    ],
)
def test_what_is_not_the_matrix_is_refused(tmp_path, make, message):
    make(tmp_path / "all_weights.pt")
    with pytest.raises(ZooError, match=message):
        open_rows(tmp_path / "all_weights.pt", 99_648)


def test_compressed_one_is_refused(release, tmp_path):
    folder, _ = release
    with (
        zipfile.ZipFile(folder / "all_weights.pt") as old,
        zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ZooError, match="expected uncompressed"):
        open_rows(tmp_path / "z", 99_648)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("row,person\n7,ann\n", "0 to 6, got 7"),
        ("row,person\n1,ann\n1,bob\n", "got row 1 again"),
        ("row\n1\n", "no person"),
    ],
)
def test_table_that_does_not_fit_is_refused(release, tmp_path, table, message):
    folder, _ = release
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UsageError, match=message):
        candidates_of(folder, tmp_path / "t.csv", folder / "faces.npy")


class RunsWhenOpened:
    """What a pickle in the release's place could hold."""

    def __reduce__(self):
        return os.mkdir, ("opened",)


def test_release_table_as_pickle_is_refused_with_what_to_do(release, tmp_path, monkeypatch):
    folder, _ = release
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w2w").mkdir()
    (tmp_path / "w2w" / "all_weights.pt").symlink_to(folder / "all_weights.pt")
    torch.save({"a": RunsWhenOpened()}, tmp_path / "w2w" / "identity_df.pt")
    words = [
        "zoo",
        "import",
        "--w2w",
        "w2w",
        "--licence",
        "w2w",
        "--out",
        "zoo",
        "--embeddings",
        str(folder / "faces.npy"),
    ]
    for more in ([], ["--table", "w2w/identity_df.pt"]):
        error = CliRunner().invoke(app, [*words, *more]).exception
        assert isinstance(error, UsageError)
        for said in (
            "is a pickled pandas table",
            "never opened here",
            ".to_csv('people.csv')",
            "give --table people.csv",
        ):
            assert said in str(error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w2w"]


NAMES = [f"{n}/unet" for n in (0, 1, 10, 11, 2, 3, 4)]


def as_pandas_writes_it(path):
    """An index without a name, an attribute and a column of paths, as `to_csv` and `to_parquet` of pandas write them."""
    if path.suffix == ".csv":
        path.write_text(",Bald,file\n" + "".join(f"{name},-1,{name}\n" for name in NAMES))
    else:
        columns = {"Bald": [-1] * ROWS, "file": NAMES, "__index_level_0__": NAMES}
        parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_release_table_by_pandas_is_read_in_order_of_rows(release, tmp_path, name):
    folder, matrix = release
    said = []
    candidates, _ = candidates_of(
        folder, as_pandas_writes_it(tmp_path / name), folder / "faces.npy", report=said.append
    )
    assert [(c.read().id, c.person) for c in candidates] == [(f"w2w-{n:06d}", person) for n, person in enumerate(NAMES)]
    assert torch.equal(candidates[2].read().load().vector[:320], matrix[2, :320])
    assert len(said) == 2
    assert "each name of its index counts as a person" in said[0]
    assert said[1].endswith(": columns that are not used: bald, file; those that are read: row, person")
    arguments = ["zoo", "import", "--w2w", folder, "--table", tmp_path / name, "--embeddings", folder / "faces.npy"]
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--out", tmp_path / "zoo", "--licence", "w2w")])
    assert result.exit_code == 0, result.output
    assert len({item.person for item in Zoo.open(tmp_path / "zoo").items}) == ROWS


def test_rows_of_one_person_stay_together_by_celeba_identity(release, tmp_path):
    folder, _ = release
    (tmp_path / "t.csv").write_text(
        "row,file,person\n" + "".join(f"{n},{NAMES[n]},{28 + n // 2}\n" for n in range(ROWS))
    )
    said = []
    candidates, _ = candidates_of(folder, tmp_path / "t.csv", folder / "faces.npy", report=said.append)
    assert [c.person for c in candidates] == ["28", "28", "29", "29", "30", "30", "31"]
    assert said == [f"{tmp_path / 't.csv'}: columns that are not used: file; those that are read: row, person"]


def test_table_of_index_and_fewer_rows_says_nothing_of_whose(release, tmp_path):
    folder, _ = release
    (tmp_path / "t.csv").write_text(",Bald\n0/unet,1\n1/unet,-1\n")
    with pytest.raises(
        UsageError, match=r"expected a row for each of 7 LoRAs, in their order, or a column row, got 2 rows"
    ):
        candidates_of(folder, tmp_path / "t.csv", folder / "faces.npy")


def test_embeddings_of_others_are_refused(release, tmp_path):
    folder, _ = release
    np.save(tmp_path / "faces.npy", np.ones((ROWS - 1, 16)))
    with pytest.raises(UsageError, match=r"expected \(7, D\), a row for each LoRA, got \(6, 16\)"):
        candidates_of(folder, folder / "people.csv", tmp_path / "faces.npy")
