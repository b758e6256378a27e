"""Small folders of pictures, made as people make them.

NOTE: lorasynth is imported inside functions only; see tests/conftest.py.
"""

import pytest
from PIL import Image

from .making import picture


@pytest.fixture
def write(tmp_path):
    """Write files below a folder: pictures by seed, text, bytes."""

    def write_files(files, root=tmp_path / "people"):
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, int):
                picture(content).save(path)
            elif isinstance(content, Image.Image):
                content.save(path)
            elif isinstance(content, str):
                path.write_text(content, encoding="utf-8")
            else:
                path.write_bytes(content)
        return root

    return write_files


@pytest.fixture
def gallery():
    """Open a folder or archive as a gallery."""

    def opened(path, **options):
        from lorasynth.gallery.folder import PhotoGallery
        from lorasynth.gallery.trees import open_tree

        return PhotoGallery.open(open_tree(path), **options)

    return opened
