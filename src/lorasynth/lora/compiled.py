"""Models within ``torch.compile``, which no adapter can be put on."""

from lorasynth.errors import LayoutError


def require_uncompiled(model: object) -> None:
    """Refuse a model within ``torch.compile``: its modules have other names, and its graph knows no adapter.

    Raises:
        LayoutError: it is one.
    """
    if hasattr(model, "_orig_mod"):
        raise LayoutError(
            "expected a model as it was loaded, got one wrapped by torch.compile; give model._orig_mod, and compile afterwards"
        )
