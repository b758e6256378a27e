"""A table however a spreadsheet saved it is the same table, or the message says what is in the way."""

import re
import unicodedata

import pytest

from lorasynth.errors import UsageError
from lorasynth.storage.tables import read_table, rows_of
from lorasynth.zoo.importing.pairing import pair_by_table

TEXT = "file,person,face\r\nloras/cl\u00e9o.safetensors,Cl\u00e9o,loras/cl\u00e9o.npy\r\n"
AS_SAVED = {
    "plain": TEXT.encode(),
    "with a byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "semicolons": TEXT.replace(",", ";").encode(),
    "tabs": TEXT.replace(",", "\t").encode(),
    "sep=;": b"sep=;\r\n" + TEXT.replace(",", ";").encode(),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "quoted": re.sub(r"([^,\r\n]+)", r'"\1"', TEXT).encode(),
    "LF": TEXT.replace("\r\n", "\n").encode(),
    "no end of line": TEXT.strip().encode(),
    "backslashes": TEXT.replace("/", "\\").encode(),
    "another machine's paths": TEXT.replace("loras/cl\u00e9o.s", "C:\\Users\\x\\cl\u00e9o.s").encode(),
    "capitals": TEXT.replace("file,person,face", "File, Person ,FACE").encode(),
    "decomposed": unicodedata.normalize("NFD", TEXT).encode(),
    "blanks": TEXT.replace(",", ", ").encode(),
    "empty columns and rows": TEXT.replace("\r\n", ",,\r\n").encode() + b",,,,\r\n",
}


@pytest.mark.parametrize("name", AS_SAVED)
def test_table_is_read_as_spreadsheets_save_it(tmp_path, name):
    lora = tmp_path / "loras" / "cl\u00e9o.safetensors"
    lora.parent.mkdir()
    lora.touch()
    lora.with_suffix(".npy").touch()
    (tmp_path / "people.csv").write_bytes(AS_SAVED[name])
    (entry,) = pair_by_table([lora], tmp_path / "people.csv")
    assert unicodedata.normalize("NFC", entry.person) == "Cl\u00e9o"
    assert entry.faces == (lora.with_suffix(".npy"),)


REFUSED = {
    "another encoding": (TEXT.encode("cp1252"), "byte 0xe9 in line 2, which is not UTF-8 text; save it as CSV UTF-8"),
    "UTF-16 without its mark": (TEXT.encode("utf-16-le"), "UTF-8|UTF-16"),
    "a comma in a name": (b"file,person,face\na,b.safetensors,ann,a.npy\n", "4 cells in row 1, where it has 3 columns"),
    "other columns": (
        b"file;name;face\na;b;c\n",
        r"expected columns file, person, face, got no person; its columns: file",
    ),
    "a column twice": (b"file,person,Person,face\na,b,c,d\n", "two columns of one name"),
    "a column twice, in the same letters": (b"file,person,face,face\na,b,c,d\n", "two columns of one name, face"),
    "a quote that never ends": (b'file,person,face\n"a,b,c\n', "expected a table, got"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_table_that_cannot_be_read_says_why(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_table(tmp_path / "t.csv", ("file", "person", "face"))


def test_workbook_is_refused_with_what_to_save(tmp_path):
    with pytest.raises(UsageError, match="save it as CSV UTF-8"):
        read_table(tmp_path / "people.xlsx", ("file",))


def test_table_that_is_no_file_is_refused_at_once(tmp_path):
    import os

    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UsageError, match="a pipe, socket or device"):
        read_table(tmp_path / "t.csv", ("file",))


def test_json_line_may_hold_what_ends_lines_elsewhere(tmp_path):
    (tmp_path / "t.jsonl").write_text('\ufeff{"File": "a\u2028b"}\r\n\r\n')
    assert read_table(tmp_path / "t.jsonl", ("file",)) == [{"file": "a\u2028b"}]
    (tmp_path / "t.jsonl").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="expected a table"):
        read_table(tmp_path / "t.jsonl", ())


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_table_that_is_not_there_is_said_to_be_missing(tmp_path, ending):
    table = tmp_path / f"people.{ending}"
    with pytest.raises(
        UsageError, match=rf"^{re.escape(str(table))}: expected a table, got nothing there; check the path$"
    ):
        read_table(table, ())


def test_table_in_memory_is_read_as_its_file(tmp_path):
    content = "\ufefffile;person\na;b\n".encode()
    (tmp_path / "t.csv").write_bytes(content)
    assert (
        rows_of("t.csv", content, ("file",))
        == read_table(tmp_path / "t.csv", ("file",))
        == [{"file": "a", "person": "b"}]
    )


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("file,person,face", None),
        (",file,person,face", None),  # pandas' index
        ("file,person,face,__index_level_0__", None),
        ("file,person,face,Consent", "consent"),
        ("file,person,face,a,b,c,d,e,f,g", "a, b, c, d, e and 2 more"),
    ],
)
def test_columns_that_nobody_reads_are_said(head, said, tmp_path):
    cells = {"file": "a.safetensors", "person": "ada", "face": "a.npy"}
    row = ",".join(cells.get(name, "1") for name in head.split(","))
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "t.csv").write_text(f"{head}\n{row}\n")
    told = []
    pair_by_table([tmp_path / "a.safetensors"], tmp_path / "t.csv", told.append)
    line = f"{tmp_path / 't.csv'}: columns that are not used: {said}; those that are read: file, person, face"
    assert told == ([] if said is None else [line])
