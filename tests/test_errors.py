import inspect
import re

import pytest

from lorasynth import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]


def drawn_tree() -> dict[str, str | None]:
    """Class name -> name of the class above it, as the module's docstring draws it."""
    above: dict[int, str] = {}
    tree: dict[str, str | None] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([ │├└─]*)(\w+Error) ", line)
        if found:
            depth, name = len(found[1]), found[2]
            tree[name] = max(((d, n) for d, n in above.items() if d < depth), default=(0, None))[1]
            above = {d: n for d, n in above.items() if d < depth} | {depth: name}
    return tree


def test_drawn_tree_is_the_tree_of_the_classes():
    assert drawn_tree() == {c.__name__: None if c is errors.LorasynthError else c.__base__.__name__ for c in CLASSES}


def test_every_error_has_a_code_of_its_own_for_programs():
    codes = {c.code for c in CLASSES}
    assert len(codes) == len(CLASSES)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_the_users_to_mend_with_its_message(error):
    with pytest.raises(errors.LorasynthError, match=r"^expected 1, got 2; give 1$"):
        raise error("expected 1, got 2; give 1")
