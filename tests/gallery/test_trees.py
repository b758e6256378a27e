"""Archives that are made to harm, and files that are none, are refused before anything of them is unpacked."""

import os
import stat
import zipfile

import pytest

from lorasynth.errors import PhotoError, UsageError
from lorasynth.gallery.trees import FolderTree, ZipTree, open_tree


def packed(path, *entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../1.jpg", "/etc/1.jpg", "a/../../1.jpg", "C:/1.jpg", "a//1.jpg", "./1.jpg"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"x.zip: expected names within the archive, got '.*1.jpg'; pack the folder"):
        ZipTree(packed(tmp_path / "x.zip", ("a/0.jpg", b"x"), (name, b"x")))


def test_bombs_are_refused_by_what_they_claim(tmp_path):
    with pytest.raises(UsageError, match=r"unpacks 19.* to 20000000 bytes, expected at most 100 times"):
        ZipTree(packed(tmp_path / "x.zip", ("a/1.jpg", bytes(20_000_000))))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"expected each name once, got 'a/1.jpg' twice"):
        ZipTree(packed(tmp_path / "x.zip", ("a/1.jpg", b"x"), ("a/1.jpg", b"y")))


def test_archives_with_passwords_are_refused(tmp_path):
    path = packed(tmp_path / "x.zip", ("a/1.jpg", b"x"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"expected files without a password"):
        ZipTree(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x.zip: expected a ZIP archive, got none"):
        open_tree(path)


def test_photo_in_the_place_of_its_folder_is_refused(tmp_path):
    (tmp_path / "me.jpg").write_bytes(b"JFIF")
    with pytest.raises(UsageError, match=r"me.jpg: expected a folder of photos .*, got another file; give its folder"):
        open_tree(tmp_path / "me.jpg")


def test_nothing_at_the_path_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"gone: expected a folder of photos or a .zip of one, got nothing there"):
        open_tree(tmp_path / "gone")


def test_links_and_damage_within_an_archive_cost_a_photo(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        link = zipfile.ZipInfo("a/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("a/1.jpg", b"some bytes of a photo")
    content = path.read_bytes().replace(b"some bytes", b"other byte")
    path.write_bytes(content)
    tree = ZipTree(path)
    with pytest.raises(PhotoError, match=r"a/link.jpg: expected a regular file, got a link or device"):
        tree.read("a/link.jpg")
    with pytest.raises(PhotoError, match=r"a/1.jpg: damaged in its archive .*CRC"):
        tree.read("a/1.jpg")


def test_folder_that_holds_itself_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "gone")
    assert FolderTree(tmp_path).files() == {"a/1.jpg": 1, "b": 0}


def test_pipes_and_lost_links_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").symlink_to(tmp_path / "gone")
    tree = FolderTree(tmp_path)
    with pytest.raises(PhotoError, match=r"^1.jpg: expected a regular file, got something else"):
        tree.read("1.jpg")
    with pytest.raises(PhotoError, match=r"^2.jpg: cannot be read .No such file or directory."):
        tree.read("2.jpg")
