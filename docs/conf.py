"""Sphinx's settings: `make site` builds out/site from these pages and from the package's docstrings."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.apidoc import main as apidoc

import lorasynth

DOCS = Path(__file__).parent

project = "lorasynth"
author = "lorasynth maintainers"
copyright = f"2026, {author}"
version = release = lorasynth.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_templates"]
# jaxtyping's names of dimensions in strings look like references.
suppress_warnings = ["ref.python"]

# Markdown: links to headings as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Blocks without a language are commands: nothing is guessed of their colours.
highlight_language = "text"

# The API reference: a page for each package, made anew by every build.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_type_comments = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
add_module_names = False
toc_object_entries = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"lorasynth {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False


def write_api(_: Sphinx) -> None:
    """Write docs/api by the template of docs/_templates/apidoc; the command line has commands.md."""
    package = Path(lorasynth.__file__).parent
    left_out = [str(package / name) for name in ("__main__.py", "cli", "assets")]
    template = str(DOCS / "_templates/apidoc")
    apidoc(["-q", "--force", "--no-toc", "--templatedir", template, "-o", str(DOCS / "api"), str(package), *left_out])


def keep_drawings(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Indented blocks of a docstring are drawings, commands or tables: they keep their lines."""
    drawn, before = [], ""
    for number, line in enumerate(lines):
        begins = line.startswith("    ") and number > 0 and not lines[number - 1].strip()
        if begins and before and not before.startswith((" ", ":", "..", "*", "-")) and not before.endswith("::"):
            drawn += ["::", ""]
        drawn.append(line)
        before = line or before
    lines[:] = drawn


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", write_api)
    app.connect("autodoc-process-docstring", keep_drawings, priority=900)  # after napoleon
