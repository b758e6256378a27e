"""Sphinx's settings: `make site` builds out/site from these pages and from the package's docstrings."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import lorasynth  # noqa: E402

project = "lorasynth"
author = "lorasynth maintainers"
copyright = f"2026, {author}"
version = release = lorasynth.__version__

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["api/modules.rst", "_templates"]
# jaxtyping's names of dimensions in strings look like references.
suppress_warnings = ["ref.python"]

# Markdown: links to headings as GitHub makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Blocks without a language are commands: nothing is guessed of their colours.
highlight_language = "text"

# The API reference: a page for each package, made anew by every build.
apidoc_modules = [
    {
        "path": "../src/lorasynth",
        "destination": "api",
        "separate_modules": False,
        "exclude_patterns": ["**/__main__.py", "**/cli/**", "**/assets/**"],
        "template_dir": "_templates/apidoc",
    }
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
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
