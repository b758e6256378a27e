"""A check of photos as one HTML page that needs no other file: counts, every photo that is left out with its reason, subjects.

NOTE: names and messages come from files that anybody may have written. Pages are filled in by Jinja2, which escapes all of them,
and forbid scripts and anything from outside.
"""

import base64
import io
from typing import Any

from jinja2 import Environment

from lorasynth.encoders.images import read_photo, to_square
from lorasynth.errors import PhotoError
from lorasynth.gallery.folder import PhotoGallery

MOST_PICTURES = 600
"""Photos that are shown; others are named."""
_SIDE = 96  # pixels
_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ r.data.name }}: photos</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
</style></head><body>
<h1>{{ r.data.name }}</h1>
<p>{{ r.usable }} of {{ r.photos }} photos of {{ r.subjects }} subjects can be used. {{ r.trainable }} subjects have photos enough
to be trained on. Encoder {{ r.encoder.name }}; licence of its files: {{ r.encoder.licence }}.</p>
{% for note in r.notes %}
<p>{{ note }}</p>
{% endfor %}
{% if r.by_reason %}
<h2>Left out</h2>
<table><thead><tr><th>reason</th><th>files</th></tr></thead><tbody>
{% for reason, count in r.by_reason.items() %}
<tr><td>{{ reason }}</td><td>{{ count }}</td></tr>
{% endfor %}
</tbody></table>
<table><thead><tr><th></th><th>photo</th><th>subject</th><th>reason</th></tr></thead><tbody>
{% for one in r.left_out %}
<tr><td>{% if pictures[one.photo] %}<img alt="" src="data:image/jpeg;base64,{{ pictures[one.photo] }}">{% endif %}</td>
<td>{{ one.photo }}</td><td>{{ one.subject or "" }}</td><td><b>{{ one.reason }}</b>: {{ one.words }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{% if r.warnings %}
<h2>Used with a warning</h2>
<table><thead><tr><th>photo</th><th>warnings</th></tr></thead><tbody>
{% for one in r.warnings %}
<tr><td>{{ one.photo }}</td><td>{{ one.warnings | join("; ") }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
<h2>Subjects</h2>
<table><thead><tr><th>subject</th><th>photos</th><th>usable</th></tr></thead><tbody>
{% for subject, counts in r.by_subject.items() %}
<tr><td>{{ subject }}</td><td>{{ counts.photos }}</td><td>{{ counts.usable }}</td></tr>
{% endfor %}
</tbody></table>
</body></html>
""")


def page(gallery: PhotoGallery, record: dict[str, Any]) -> str:
    """The page of a check.

    Args:
        gallery: whose photos are shown, small.
        record: `Report.record`.
    """
    names = [one["photo"] for one in record["left_out"][:MOST_PICTURES]]
    return _PAGE.render(r=record, pictures={name: _small(gallery, name) for name in names})


def _small(gallery: PhotoGallery, name: str) -> str:
    """A photo as a small JPEG in base64. Empty where it cannot be opened."""
    try:
        image = read_photo(gallery.content(name), name).image
    except (PhotoError, KeyError):
        return ""
    content = io.BytesIO()
    to_square(image, _SIDE).save(content, format="JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()
