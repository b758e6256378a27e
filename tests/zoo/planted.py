"""A tiny zoo, and faults to plant into it: each changes its folder in one way and says where the fault is to be found.

NOTE: lorasynth is imported inside functions only; see tests/conftest.py.
"""

import json
import multiprocessing
import os
import random
import re
import signal
import sys

PERSONS = ([11, 12, 13, 12], [21, 22], [31, 32, 33])


def layout():
    from lorasynth.lora.layout import Layout, Module

    sides = {"a": (5, 4), "b": (3, 6)}
    return Layout(
        base="toy", modules=tuple(Module(name=n, in_features=i, out_features=o, rank=2) for n, (i, o) in sides.items())
    )


def make_zoo(folder):
    """Nine LoRAs of eight people in three shards, one person forgotten before."""
    import torch

    from lorasynth.zoo.forget import forget_person
    from lorasynth.zoo.store import Zoo

    p = layout().num_parameters
    made = Zoo.create(folder, layout(), {"rank": 2}, torch.linspace(-1, 1, p))
    g = torch.Generator().manual_seed(0)
    for number, persons in enumerate([*PERSONS, [99]]):
        made.append(
            f"shard-{number:05d}", persons, ["train"] * len(persons), torch.randn(len(persons), p, generator=g),
            torch.randn(len(persons), 2, 8, generator=g), "made", "CC0", ids=[f"item-{number}{i}" for i in range(len(persons))],
        )  # fmt: skip
    forget_person(folder, 99)
    return Zoo.open(folder)


def contents(folder):
    """Name -> bytes of all files, those of sub-folders too; but for the lock, which says nothing."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def restore(folder, before):
    """Make a folder hold those files and no others."""
    now = contents(folder)
    for name in now.keys() - before.keys():
        (folder / name).unlink()
    for name, content in before.items():
        if now.get(name) != content:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def stored(folder):
    """Item -> its vector's and embeddings' bytes, as in a file."""
    from lorasynth.zoo.store import Zoo

    zoo = Zoo.open(folder)
    rows = [row for shard in {item.shard for item in zoo.items} for row in zoo.rows(shard)]
    return {id: (vector.half().numpy().tobytes(), faces.half().numpy().tobytes()) for id, vector, faces in rows}


def kill_at(moment, folder):
    """Have this process killed before it changes the folder for the ``moment``-th time."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event == "open":
            changes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in ("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.chmod")
        if changes and any(str(folder) in str(a) for a in arguments):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_at(moment, folder, act):
    """Let a process act that is to be killed; whether it was, before it was done."""

    def child():
        kill_at(moment, folder)
        act()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


class Planter:
    """Plants one fault after another, of all kinds in turn; the same in every run."""

    def __init__(self, folder, seed=0):
        self.folder, self.random = folder, random.Random(seed)
        self.shards = [f"shard-{n:05d}" for n in range(len(PERSONS))]
        self.kinds = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("plant_")]

    def plant(self, number):
        """Plant fault ``number``; gives its kind and the place that has to be named."""
        kind = self.kinds[number % len(self.kinds)]
        return kind.__name__.removeprefix("plant_"), kind()

    # The parts of files.

    def _path(self, shard):
        return self.folder / f"{shard}.safetensors"

    def _shard(self):
        return self.random.choice(self.shards)

    def _parts(self, content):
        """(start, end) of header and of each tensor in a shard's bytes."""
        end = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:end])
        places = {name: tuple(end + o for o in entry["data_offsets"]) for name, entry in entries.items()}
        return {"header": (8, end), **places}, {name: entry["shape"][0] for name, entry in entries.items()}

    def _row(self, content, tensor, row):
        parts, counts = self._parts(content)
        (start, end), count = parts[tensor], counts[tensor]
        size = (end - start) // count
        return slice(start + row * size, start + (row + 1) * size)

    def _change(self, path, change):
        content = bytearray(path.read_bytes())
        before = bytes(content)
        content = change(content) or content
        assert bytes(content) != before, f"{path}: nothing was planted"
        path.write_bytes(bytes(content))

    def _flip(self, start, end):
        def change(content):
            at = self.random.randrange(start, end)
            content[at] ^= 1 << self.random.randrange(8)

        return change

    def _flip_in(self, shard, part):
        path = self._path(shard)
        start, end = self._parts(path.read_bytes())[0][part]
        self._change(path, self._flip(start, end))
        return shard

    # Bits and bytes.

    def plant_bit_of_a_lora(self):
        return self._flip_in(self._shard(), "vectors")

    def plant_bit_of_an_embedding(self):
        return self._flip_in(self._shard(), "embeddings")

    def plant_bit_of_a_header(self):
        return self._flip_in(self._shard(), "header")

    def plant_bit_of_a_header_length(self):
        shard = self._shard()
        self._change(self._path(shard), self._flip(0, 8))
        return shard

    def plant_bit_of_the_manifest(self):
        path = self.folder / "manifest.jsonl"
        self._change(path, self._flip(0, path.stat().st_size))
        return "manifest.jsonl line"

    def plant_bit_of_zoo_json(self):
        path = self.folder / "zoo.json"
        self._change(path, self._flip(0, path.stat().st_size))
        return "zoo.json"

    def plant_bit_of_the_initialisation(self):
        path = self.folder / "init.safetensors"
        self._change(path, self._flip(0, path.stat().st_size))
        return "init.safetensors"

    def plant_zeros_in_a_shard(self):
        shard, n = self._shard(), self.random.randrange(8, 60)

        def change(content):
            at = self.random.randrange(0, len(content) - n)
            content[at : at + n] = bytes(n)

        self._change(self._path(shard), change)
        return shard

    def plant_blanks_of_another_kind_in_a_header(self):
        shard = self._shard()

        def change(content):
            end = self._parts(content)[0]["header"][1]
            body = bytes(content[8:end]).rstrip(b" ")
            # A blank in the JSON, or before it: the same for any reader of JSON.
            text = self.random.choice([body.replace(b",", b", ", 1), b" " + body, body + b"\n"])
            text += b" " * (-len(text) % 8)
            return len(text).to_bytes(8, "little") + text + bytes(content[end:])

        self._change(self._path(shard), change)
        return shard

    def plant_another_type_in_a_header(self):
        shard, name = self._shard(), self.random.choice([b"vectors", b"embeddings"])

        def change(content):
            return content.replace(b'"' + name + b'":{"dtype":"F16"', b'"' + name + b'":{"dtype":"I16"')

        self._change(self._path(shard), change)
        return shard

    def plant_another_shape_of_embeddings(self):
        shard = self._shard()
        self._change(self._path(shard), lambda content: content.replace(b",2,8]", b",8,2]"))
        return "shard-"

    def plant_names_of_tensors_exchanged(self):
        shard = self._shard()

        def change(content):
            swapped = content.replace(b'"vectors"', b'"x"').replace(b'"embeddings"', b'"vectors"')
            return swapped.replace(b'"x"', b'"embeddings"')

        self._change(self._path(shard), change)
        return shard

    # Rows.

    def plant_two_loras_exchanged(self):
        return self._swap(["vectors"])

    def plant_two_embeddings_exchanged(self):
        return self._swap(["embeddings"])

    def plant_two_rows_exchanged(self):
        return self._swap(["vectors", "embeddings"])

    def _swap(self, tensors):
        shard = self._shard()

        def change(content):
            i, j = self.random.sample(range(self._parts(content)[1]["vectors"]), 2)
            for tensor in tensors:
                a, b = self._row(content, tensor, i), self._row(content, tensor, j)
                content[a], content[b] = content[b], content[a]

        self._change(self._path(shard), change)
        return shard

    def plant_one_row_copied_over_another(self):
        shard = self._shard()

        def change(content):
            i, j = self.random.sample(range(self._parts(content)[1]["vectors"]), 2)
            content[self._row(content, "vectors", i)] = content[self._row(content, "vectors", j)]

        self._change(self._path(shard), change)
        return shard

    # Files.

    def plant_shard_cut_short(self):
        shard = self._shard()
        self._change(self._path(shard), lambda content: content[: self.random.randrange(len(content))])
        return shard

    def plant_bytes_behind_a_shard(self):
        shard = self._shard()
        self._change(self._path(shard), lambda content: content + self.random.randbytes(self.random.randrange(1, 50)))
        return shard

    def plant_missing_shard(self):
        shard = self._shard()
        self._path(shard).unlink()
        return shard

    def plant_two_shards_exchanged(self):
        a, b = self.random.sample(self.shards, 2)
        x, y = self._path(a).read_bytes(), self._path(b).read_bytes()
        self._path(a).write_bytes(y)
        self._path(b).write_bytes(x)
        return a

    def plant_shard_of_nobody(self):
        name = f"shard-{self.random.randrange(100, 99_999):05d}"
        self._path(name).write_bytes(self._path(self._shard()).read_bytes())
        return name

    def plant_temporary_file(self):
        name = f".shard-00001.safetensors.{self.random.randrange(10**6)}.part"
        (self.folder / name).write_bytes(self.random.randbytes(99))
        return name

    def plant_missing_initialisation(self):
        (self.folder / "init.safetensors").unlink()
        return "init.safetensors"

    def plant_missing_zoo_json(self):
        (self.folder / "zoo.json").unlink()
        return "zoo.json"

    def plant_missing_manifest(self):
        (self.folder / "manifest.jsonl").unlink()
        return self._shard()

    # Lines of the manifest.

    def _lines(self, change, where="manifest.jsonl line"):
        path = self.folder / "manifest.jsonl"

        def changed(content):
            lines = bytes(content).splitlines(keepends=True)
            return b"".join(change(lines) or lines)

        self._change(path, changed)
        return where

    def _item_line(self, lines):
        return self.random.choice([n for n, line in enumerate(lines) if line.startswith(b'{"id"')])

    def plant_line_twice(self):
        def change(lines):
            lines.insert(self.random.randrange(len(lines) + 1), lines[self._item_line(lines)])

        return self._lines(change, "shard-")

    def plant_line_torn(self):
        return self._lines(lambda lines: [*lines[:-1], lines[-1][: self.random.randrange(1, len(lines[-1]))]])

    def plant_line_missing(self):
        def change(lines):
            del lines[self._item_line(lines)]

        return self._lines(change, "shard-")

    def plant_empty_line(self):
        return self._lines(lambda lines: lines.insert(self.random.randrange(len(lines)), b"\n"))

    def plant_line_of_something_else(self):
        junk = self.random.choice([b"[]\n", b"7\n", b"null\n", b'"a"\n', b"{}\n", b"\xff\xfe\n", b"[" * 10_000 + b"\n"])
        return self._lines(lambda lines: lines.insert(self.random.randrange(len(lines)), junk))

    def plant_field_edited(self):
        """With JSON that is as good as before."""
        edits = [
            (b'"person": (\\d+)', b'"person": 7'),
            (b'"split": "train"', b'"split": "held_out"'),
            (b'"licence": "CC0"', b'"licence": "any"'),
            (b'"source": "made"', b'"source": "maid"'),
            (b'"relative_error": 0.0', b'"relative_error": 0.5'),
            (b'"row": (\\d+)', b'"row": 77'),
            (b'"sha256": "..', b'"sha256": "zz'),
            (b'"embeddings_sha256": "..', b'"embeddings_sha256": "zz'),
            (b'"embeddings_sha256": "[^"]*"', b'"embeddings_sha256": ""'),
            (b'"id": "item', b'"id": "atom'),
        ]
        pattern, new = self.random.choice(edits)

        def change(lines):
            at = self._item_line(lines)
            lines[at] = re.sub(pattern, new, lines[at], count=1)

        return self._lines(change)

    def plant_row_of_another(self):
        """A line with a good checksum that claims another item's row, or one behind the end."""
        from dataclasses import replace

        from lorasynth.zoo.manifest import read_manifest, to_line

        def change(lines):
            at = self._item_line(lines)
            item = read_manifest(self.folder).lines[at].record
            lines[at] = to_line(replace(item, row=item.row + self.random.choice([1, 2, 1000])))

        return self._lines(change, "shard-")

    def plant_tombstone_edited(self):
        def change(lines):
            return [line.replace(b'"forgotten": 99', b'"forgotten": 98') for line in lines]

        return self._lines(change)

    def plant_somebody_who_was_forgotten(self):
        from dataclasses import replace

        from lorasynth.zoo.manifest import read_manifest, to_line

        def change(lines):
            at = self._item_line(lines)
            lines[at] = to_line(replace(read_manifest(self.folder).lines[at].record, person=99))

        return self._lines(change, "shard-")
