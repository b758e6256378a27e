"""Which base model a LoRA is for: the one whose table has every module and shape of the file, and nothing less.

A header decides between bases that fit equally. It is never overruled in silence, and it never makes a base fit that does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from lorasynth.lora import bases
from lorasynth.lora.bases import Parts, Shape, Variant
from lorasynth.storage.faults import Fault

# Words of headers, in small letters and digits alone: ours, kohya's ss_base_model_version, ModelSpec's architecture.
_STATED = (
    ("sdxl-refiner", re.compile("(sdxl|stablediffusionxl)(v1|10)?refiner")),
    ("sdxl", re.compile("sdxl|stablediffusionxl|pony|illustrious|noobai|animagine")),
    ("sd15", re.compile("sdv?1|stablediffusionv?1")),
    ("sd2", re.compile("sdv?2|stablediffusionv?2")),
    ("sd3", re.compile("sdv?3|stablediffusionv?3")),
    ("flux2", re.compile("flux2|flux.*klein")),
    ("flux", re.compile("flux1|flux$|fluxdev|fluxschnell|fluxkontext")),
    ("chroma", re.compile("chroma")),
    ("qwen-image", re.compile("qwenimage")),
    ("z-image", re.compile("zimage")),
    ("hunyuan-video", re.compile("hunyuanvideo(?!15)")),
    ("wan", re.compile("wan(video)?(2[12]|$)")),
    ("auraflow", re.compile("auraflow")),
    ("pixart", re.compile("pixart")),
)


@dataclass(frozen=True)
class Layer:
    """One pair of factors as a file has it.

    Attributes:
        spellings: names that its module may have, the file's prefix taken off.
        shape: in, out, kernel, by its tensors.
        key: of its lora_A, for messages.
    """

    spellings: tuple[str, ...]
    shape: Shape
    key: str

    def parts(self, variant: Variant) -> Parts | None:
        """What it is in a model. None if the model has no such layer, or not in this shape."""
        i, o, kernel = self.shape
        for name in self.spellings:
            if not variant.may_have(name):
                continue
            for module, rows in (parts := variant.spelled.get(name, ())):
                width, _, size = variant.modules[module]
                if width != i or (size != kernel and {size, kernel} != {None, (1, 1)}):
                    return None
                del rows
            if parts:
                return parts if sum(last - first for _, rows in parts for first, last in rows) == o else None
        return None


@dataclass(frozen=True)
class Identity:
    """What a file is for.

    Attributes:
        base: its base model; "" if unknown.
        model: the model that has every module of the file; None if no table has.
        parts: the file's name of a layer -> the modules that it is.
        faults: what is wrong or worth knowing of it.
        is_named: whether somebody names its base, or a known model has all of its modules' names.
    """

    base: str
    model: Variant | None
    parts: dict[str, Parts]
    faults: list[Fault]
    is_named: bool = True


def identify(layers: Mapping[str, Layer], metadata: Mapping[str, str], forced: str | None) -> Identity:
    """Find the base model, and the modules that a file's layers are.

    Args:
        layers: the file's name of a layer -> what it holds; at least one.
        metadata: of the header.
        forced: the base that the caller names, whatever the file says.

    Returns:
        What it is for. Shared with other files of the same layers and statements, and not to be changed.
    """
    return _identify(tuple(layers.items()), tuple(stated_bases(metadata)), forced)


# NOTE: remembered, as files of a folder mostly are of one kind, and tens of models are tried for each.
@lru_cache(8)
def _identify(
    items: tuple[tuple[str, Layer], ...], said: tuple[tuple[str, str, str], ...], forced: str | None
) -> Identity:
    layers, statements = dict(items), list(said)
    fits = [model for model in bases.variants() if all(layer.parts(model) for layer in layers.values())]
    names = list(dict.fromkeys(model.base for model in fits))
    base, faults = _named(layers, names, statements)
    if forced is not None:
        faults = [replace(fault, fatal=False) for fault in faults if fault.code == "base"]
        if bases.of(forced) and forced not in names and not faults:
            faults = [_denied(("--force-base", forced, forced), layers, names)]
            faults = [replace(fault, fatal=False) for fault in faults]
        base = forced
    models = [model for model in fits if model.base == base] or ([] if bases.of(base) else fits)
    readings = [{raw: layer.parts(model) or () for raw, layer in layers.items()} for model in models]
    if any(reading != readings[0] for reading in readings):
        expected, fix = f"names that mean the same in {' and '.join(names)}", "name the base with --force-base"
        first = next(iter(layers.values())).key
        faults.append(Fault(code="base", key=first, expected=expected, actual="different modules", fix=fix))
    if models:
        return Identity(base, models[0], readings[0], faults)
    named = _by_name(layers, base)
    parts = named or {raw: _own_name(layer) for raw, layer in layers.items()}
    return Identity(base, None, parts, faults, is_named=bool(base or named))


def stated_bases(metadata: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Each field of a header that names a base, its text, and which one it means: "" if none that is known.

    Our own field may name a base without a table: a fine-tuned model, or one of the drawn worlds.
    """
    said = []
    for key in ("lorasynth.base", "ss_base_model_version", "modelspec.architecture"):
        if text := metadata.get(key, ""):
            word = re.sub(r"[^a-z0-9]", "", text.lower().removesuffix("/lora"))
            known = next((base for base, words in _STATED if words.match(word)), "")
            said.append((key, text, text if key == "lorasynth.base" else known))
    return said


def _named(
    layers: Mapping[str, Layer], names: list[str], statements: list[tuple[str, str, str]]
) -> tuple[str, list[Fault]]:
    """The base by tables and header, and what there is to say of it."""
    first = next(iter(layers.values())).key
    known = [statement for statement in statements if statement[2]]
    if known:
        stated = known[0][2]
        denied = [s for s in known if bases.of(s[2]) and (s[2] not in names or (bases.of(stated) and s[2] != stated))]
        return stated, [_denied(statement, layers, names) for statement in denied[:1]]
    if names and statements:
        key, text, _ = statements[0]
        fix = f"name its base with --force-base: {names[0]}, if that is what it is for"
        return "", [_note("base-unknown", key, f"a base that fits: {', '.join(names)}", text, fix)]
    if len(names) > 1:
        fix = "none needed: its modules are the same in each. --force-base names one"
        return "", [_note("base-ambiguous", first, "modules of one base alone", f"those of {', '.join(names)}", fix)]
    if names:
        return names[0], []
    fix = "name its base with --force-base, if you know it; until then it is written in no other format"
    key, got = _nearest(layers)
    return "", [_note("base-unknown", key, "modules that a known base has", got, fix)]


def _nearest(layers: Mapping[str, Layer], models: tuple[Variant, ...] | None = None) -> tuple[str, str]:
    """The key of a layer that keeps the file from being the nearest model's, and what is the matter with it."""
    missing = {id(m): (m, [x for x in layers.values() if not x.parts(m)]) for m in models or bases.variants()}
    model, wrong = min(missing.values(), key=lambda entry: len(entry[1]))
    layer = wrong[0]
    shape = f"{layer.shape[0]} -> {layer.shape[1]}"
    name = next((name for name in layer.spellings if name in model.spelled), "")
    if name:
        return layer.key, f"{name}, {shape}, which {model.base} has in another shape"
    whose = "none has" if models is None and len(wrong) == len(layers) else f"{model.base} has not"
    return layer.key, f"{layer.spellings[-1]}, {shape}, which {whose}"


def _denied(statement: tuple[str, str, str], layers: Mapping[str, Layer], names: list[str]) -> Fault:
    """A base that is stated and that the tables deny."""
    key, text, stated = statement
    fix = "name the base model with --force-base, if you know"
    if names:
        expected = f"{' or '.join(names)}, the base model by its shapes"
        return Fault(code="base", key=key, expected=expected, actual=text, fix=fix)
    where, got = _nearest(layers, bases.of(stated))
    return Fault(code="base", key=where, expected=f"modules of {stated}, as {key} says", actual=got, fix=fix)


def _by_name(layers: Mapping[str, Layer], base: str) -> dict[str, Parts] | None:
    """The layers' modules in the first model that has all of their names, whatever their shapes. None if none has.

    Names of the original code and fused layers are taken for a base that somebody names alone: of an unknown one (Lumina's qkv
    beside Z-Image's) the same name may mean other rows.
    """
    for model in bases.of(base):
        found = {raw: _scaled(layer, model) for raw, layer in layers.items()}
        if all(found.values()):
            return {raw: parts for raw, parts in found.items() if parts}
    for model in bases.variants():
        names = {raw: next(filter(None, map(model.flat.get, layer.spellings)), "") for raw, layer in layers.items()}
        if all(names.values()):
            return {raw: ((name, ((0, layers[raw].shape[1]),)),) for raw, name in names.items()}
    return None


def _scaled(layer: Layer, model: Variant) -> Parts | None:
    """What a layer's name means in a model of another width: the same modules, with the same share of its rows."""
    for name in layer.spellings:
        if parts := model.spelled.get(name, ()):
            out, total = layer.shape[1], sum(last - first for _, rows in parts for first, last in rows)
            if any(end * out % total for _, rows in parts for ends in rows for end in ends):
                return None
            return tuple((m, tuple((a * out // total, b * out // total) for a, b in rows)) for m, rows in parts)
    return None


def _own_name(layer: Layer) -> Parts:
    """A layer of an unknown model: by the grammar of every UNet's names, or under the file's own."""
    name = next(filter(None, map(bases.unet_name, layer.spellings)), layer.spellings[0])
    return ((name, ((0, layer.shape[1]),)),)


def _note(code: str, key: str, expected: str, actual: str, fix: str) -> Fault:
    return Fault(code=code, key=key, expected=expected, actual=actual, fix=fix, fatal=False)
