"""LoRAs where they lie: the same numbers as in memory, whatever was asked for, and the same models from them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lorasynth.canonical import Canonicalizer
from lorasynth.devices import fast_matmul
from lorasynth.errors import ModelError, ZooError
from lorasynth.lora.layout import Layout, Module
from lorasynth.storage.rows import Rows, chunks
from lorasynth.training import LoopConfig
from lorasynth.vae import VAEConfig, fit_vae
from lorasynth.zoo import Zoo

LAYOUT = Layout(
    base="toy",
    modules=(
        Module(name="a", in_features=9, out_features=7, rank=2),
        Module(name="b", in_features=6, out_features=8, rank=1),
    ),
)
N = 310  # more than are read at once
TRAIN, HELD = torch.arange(0, N, 2), torch.arange(1, N, 2)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """People in no order over three shards, of few directions and a little noise."""
    folder = tmp_path_factory.mktemp("rows") / "zoo"
    g = torch.Generator().manual_seed(0)
    made = Zoo.create(folder, LAYOUT, {}, None)
    P = LAYOUT.num_parameters
    mean, directions = torch.randn(P, generator=g), torch.randn(6, P, generator=g) * 0.2
    for number, persons in enumerate(torch.randperm(N, generator=g).split([100, 7, 203])):
        n = len(persons)
        vectors = mean + torch.randn(n, 6, generator=g) @ directions + 0.01 * torch.randn(n, P, generator=g)
        faces = torch.randn(n, 2, 5, generator=g)
        made.append(f"shard-{number:05d}", persons.tolist(), ["train"] * n, vectors, faces, "made", "CC0")
    return Zoo.open(folder)


def vae_of(x, embeddings, stem, steps=40, run_dir=None):
    loop = LoopConfig(steps=steps, warmup_steps=2, validate_every=10, ema_decay=0.9, checkpoint_every_s=1e9)
    config = VAEConfig(stem=stem, num_components=5, local_numbers=400, latent_dim=3, hidden_dim=8, loop=loop)
    return fit_vae(
        x, config, train_rows=TRAIN, validation_rows=HELD, blocks=[32, 14], embeddings=embeddings, run_dir=run_dir
    )  # fmt: skip


def equal(one, two):
    return all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_any_rows_are_those_that_were_stored(zoo):
    """Against numpy, by the bytes of the files: their last matrix but one, behind the header."""
    persons, rows, embeddings = zoo.open_rows()
    assert (len(rows), rows.shape, persons) == (N, (N, LAYOUT.num_parameters), list(range(N)))
    stored, faces = {}, {}
    for item in zoo.items:
        content = (zoo.folder / f"{item.shard}.safetensors").read_bytes()
        n = sum(other.shard == item.shard for other in zoo.items)
        numbers = np.frombuffer(content[-2 * n * (LAYOUT.num_parameters + 10) :], np.float16).astype(np.float32)
        faces[item.person] = numbers[: 10 * n].reshape(n, 2, 5)[item.row]
        stored[item.person] = numbers[10 * n :].reshape(n, -1)[item.row]
    asked = torch.tensor([309, 0, 5, 5, 17])
    np.testing.assert_array_equal(rows[asked], np.stack([stored[int(p)] for p in asked]))
    np.testing.assert_array_equal(rows[3:40:9], np.stack([stored[p] for p in range(3, 40, 9)]))
    np.testing.assert_array_equal(rows.take(HELD)[:2], np.stack([stored[1], stored[3]]))
    np.testing.assert_array_equal(embeddings, np.stack([faces[p] for p in range(N)]))
    assert rows[:0].shape == (0, LAYOUT.num_parameters)
    assert torch.equal(zoo.load()[1], rows[:])


def test_chunks_are_all_rows_in_order(zoo):
    _, rows, _ = zoo.open_rows()
    parts = list(chunks(rows))
    assert [len(part) for part in parts] == [256, N - 256]
    assert torch.equal(torch.cat(parts), rows[:])
    wide = Rows(lambda index: torch.zeros(len(index), 1 << 22), (9, 1 << 22), "")
    assert [len(part) for part in chunks(wide)] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("gauge", ["procrustes", "anchored"])
def test_canonical_form_is_that_of_memory_to_the_last_bit(zoo, gauge):
    _, rows, _ = zoo.open_rows()
    reference = rows[:1][0] if gauge == "anchored" else None
    if gauge == "anchored":  # a zoo of one lora_A
        frozen, a = reference.clone(), torch.zeros_like(reference, dtype=torch.bool)
        for part, _ in LAYOUT.slices.values():
            a[part] = True
        rows = Rows(lambda index, read=rows: torch.where(a, frozen, read[index]), rows.shape, "")
    on_disk = Canonicalizer.fit(rows.take(TRAIN), LAYOUT, gauge, reference)
    in_memory = Canonicalizer.fit(rows[TRAIN], LAYOUT, gauge, reference)
    for name in ("reference", "mean", "scale", "active"):
        assert torch.equal(getattr(on_disk, name), getattr(in_memory, name)), name
    view = on_disk.view(rows)
    assert view.shape == (N, on_disk.num_features)
    torch.testing.assert_close(view[HELD], in_memory.apply(rows[:])[HELD], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stem", ["predictable", "principal"])
def test_vae_is_that_of_memory(zoo, stem):
    _, rows, embeddings = zoo.open_rows()
    form = Canonicalizer.fit(rows.take(TRAIN), LAYOUT)
    x = form.apply(rows[:])
    read = Rows(lambda index: x[index], (N, x.shape[1]), "")
    here, figures = vae_of(x, embeddings[:, 0], stem)
    there, same_figures = vae_of(read, embeddings[:, 0], stem)
    assert equal(here, there)
    assert {**figures, "seconds": 0} == {**same_figures, "seconds": 0}
    from_zoo, nearly = vae_of(form.view(rows), embeddings[:, 0], stem)
    assert nearly["vae_error"] == pytest.approx(figures["vae_error"], rel=1e-3)
    with torch.no_grad():
        one, two = (vae.decode(vae.encode(x[HELD])[0]) for vae in (here, from_zoo))
    torch.testing.assert_close(one, two, rtol=0, atol=2e-3)


def test_vae_from_disk_that_was_stopped_ends_with_same_weights(zoo, tmp_path, stopped_in_step):
    _, rows, embeddings = zoo.open_rows()
    form = Canonicalizer.fit(rows.take(TRAIN), LAYOUT)
    whole, _ = vae_of(form.view(rows), embeddings[:, 0], "predictable")
    with stopped_in_step(17):
        vae_of(form.view(rows), embeddings[:, 0], "predictable", run_dir=tmp_path)
    again, _ = vae_of(form.view(Zoo.open(zoo.folder).open_rows()[1]), embeddings[:, 0], "predictable", run_dir=tmp_path)
    assert equal(whole, again)


def test_digest_is_of_what_the_rows_hold(zoo):
    _, rows, _ = zoo.open_rows()
    again = Zoo.open(zoo.folder).open_rows()[1]
    form = Canonicalizer.fit(rows.take(TRAIN), LAYOUT)
    other = Canonicalizer.fit(rows.take(HELD), LAYOUT)
    others = [r.digest for r in (rows, rows.take(TRAIN), rows.take(HELD), form.view(rows), other.view(rows))]
    assert len(set(others)) == 5
    assert again.digest == rows.digest
    assert form.view(again.take(TRAIN)).digest == form.view(rows.take(TRAIN)).digest


def test_step_of_coarse_products_gets_rows_of_exact_ones(zoo):
    _, rows, _ = zoo.open_rows()
    form, seen = Canonicalizer.fit(rows.take(TRAIN), LAYOUT), []

    def read(index):
        seen.append(torch.get_float32_matmul_precision())
        return rows[index]

    view = form.view(Rows(read, rows.shape, ""))
    with fast_matmul():
        view[HELD]
        assert torch.get_float32_matmul_precision() == "high"
    assert seen == ["highest"]


def test_messages_name_the_item_by_its_number_in_the_zoo(zoo):
    _, rows, _ = zoo.open_rows()
    form = Canonicalizer.fit(rows.take(TRAIN), LAYOUT)
    damaged = rows[:]
    damaged[303, 3] = torch.nan
    view = form.view(Rows(lambda index: damaged[index], rows.shape, ""))
    with pytest.raises(ZooError, match=r"NaN or infinity in items \[303\]"):
        list(chunks(view))
    backwards = Rows(lambda index: damaged[index], rows.shape, "").take(torch.arange(len(rows)).flip(0))
    for read in (
        lambda: Canonicalizer.fit(backwards, LAYOUT),
        lambda: form.view(backwards)[torch.tensor([0, N - 1 - 303])],
    ):
        with pytest.raises(ZooError, match=r"NaN or infinity in items \[303\]"):
            read()


@pytest.fixture
def copied(zoo, tmp_path):
    """The folder of a copy."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for file in zoo.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def rewritten(**changes):
    """A shard's bytes with something changed about its two matrices of seven rows."""
    tensors = {"vectors": torch.zeros(7, LAYOUT.num_parameters), "embeddings": torch.zeros(7, 2, 5)}
    return save({name: tensor.half() for name, tensor in tensors.items()} | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file"),
        (b"\0" * 64, "header"),
        (rewritten()[:40], "header"),
        (rewritten()[:-2], "cut short"),
        (
            rewritten(vectors=torch.zeros(6, 46).half(), embeddings=torch.zeros(6, 2, 5).half()),
            "expected 7 rows, got 6",
        ),
        (rewritten(vectors=torch.zeros(7, 45).half()), r"expected vectors \(F16, n, 46\)"),
        (rewritten(vectors=torch.zeros(7, 46)), r"expected vectors \(F16, n, 46\).*F32"),
        (rewritten(embeddings=torch.zeros(7, 10).half()), r"embeddings \(F16, n, J, D\), got"),
        (rewritten(more=torch.zeros(7).half()), r"expected vectors .* got .*more"),
        (rewritten(embeddings=torch.zeros(7, 2, 4).half()), "expected embeddings of one shape"),
    ],
)
def test_bad_shard_is_named_before_anything_is_learned(copied, content, message):
    (copied / "shard-00001.safetensors").write_bytes(content)
    with pytest.raises((ModelError, ZooError), match=message) as caught:
        Zoo.open(copied).open_rows()
    assert "shard-00001" in str(caught.value) or "one shape" in message
    assert "run `lorasynth zoo verify`" in str(caught.value)


def test_shard_that_changes_under_way_is_named(copied):
    folder = copied
    _, rows, _ = Zoo.open(folder).open_rows()
    shard = folder / "shard-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(ModelError, match=r"shard-00002\.safetensors: expected a file at rest, got one that was cut"):
        rows[:]
    with pytest.raises(ModelError, match=r"shard-00002\.safetensors: .*cut short"):
        Zoo.open(folder).open_rows()
    shard.unlink()
    with pytest.raises(ModelError, match=r"shard-00002\.safetensors: expected to read its rows, got 'No such file"):
        rows[:]
