"""What LoRA files can give a zoo, and what that would lose, said before one is taken in: modules, rank, parts of ‖ΔW‖²."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

from lorasynth.canonical.svd import canonical_factors
from lorasynth.errors import LayoutError, ZooError
from lorasynth.lora.factors import LoRA
from lorasynth.lora.gate import read_raw
from lorasynth.lora.layout import Layout, Module
from lorasynth.lora.text_encoders import text_encoder_keys
from lorasynth.storage.faults import printable, shown
from lorasynth.storage.header import parse_header

SAMPLE = 64
"""How many LoRAs are looked at."""
KEEP = 0.95
"""The part of ‖ΔW‖² in a layout's modules that the rank has to keep, of nineteen in twenty LoRAs."""
_MOST_SETS = 16  # of modules whose intersections are tried


@dataclass(frozen=True)
class _Look:
    """One LoRA: its base, and of each module, by name, the layer and the squared singular values, largest first."""

    path: Path
    base: str
    modules: dict[str, Module]  # of rank 1, so that equal layers are equal
    energies: dict[str, list[float]]
    text_encoder: bool

    @property
    def whole(self) -> float:
        return sum(map(sum, self.energies.values()))

    def kept(self, layout: Layout) -> tuple[float, float]:
        """The parts of ‖ΔW‖² in a layout's modules, and within its ranks."""
        in_modules = sum(sum(self.energies[m.name]) for m in layout.modules)
        in_ranks = sum(sum(self.energies[m.name][: m.rank]) for m in layout.modules)
        return in_modules / self.whole, in_ranks / self.whole

    def fits(self, layout: Layout) -> bool:
        return self.base in ("", layout.base) and all(
            self.modules.get(m.name) == replace(m, rank=1) for m in layout.modules
        )


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What an import would take and lose, by the LoRAs that were looked at.

    Attributes:
        layout: that all are to be brought to.
        num_files: how many LoRAs there are.
        num_seen: how many were looked at.
        left_out: those of them that would be refused for their modules or base, or cannot be read, with the reason.
        lost_by_modules: mean part of ‖ΔW‖² in modules that the layout lacks.
        lost_by_rank: mean part of it beyond the layout's rank.
        worst: the LoRA that would lose most, and the part.
        text_encoders: how many have text encoders' parts, which are left out.
        rank_to_keep: the least rank that keeps `KEEP` of ‖ΔW‖² in the layout's modules, of nineteen in twenty.
    """

    layout: Layout
    num_files: int
    num_seen: int
    left_out: tuple[tuple[Path, str], ...]
    lost_by_modules: float
    lost_by_rank: float
    worst: tuple[str, float]
    text_encoders: int
    rank_to_keep: int

    @property
    def rank(self) -> int:
        """Of the layout. Layers that are narrower have their width."""
        return max(m.rank for m in self.layout.modules)

    def lines(self) -> list[str]:
        """For people: what would be taken and what would be lost."""
        taken = self.num_seen - len(self.left_out)
        base = self.layout.base or "an unnamed base"
        some = "" if self.num_seen == self.num_files else f" that were looked at, of {self.num_files}"
        said = [
            f"layout: {len(self.layout.modules)} modules of {base} at rank {self.rank}, which {taken} of {self.num_seen} LoRAs"
            f"{some} can give",
            f"will be lost of ‖ΔW‖², on average: {self.lost_by_modules:.2f} in modules that the layout lacks, "
            f"{self.lost_by_rank:.2f} by the rank; most {self.worst[1]:.2f}, of {shown(self.worst[0])}",
        ]
        if self.rank < self.rank_to_keep:
            said.append(
                f"rank {self.rank} keeps less than {KEEP:g} of ‖ΔW‖² in these modules; --rank {self.rank_to_keep} keeps it"
            )
        if self.text_encoders:
            said.append(f"{self.text_encoders} LoRAs have text encoders' parts, which are left out")
        if self.left_out:
            path, reason = self.left_out[0]
            named = shown(path)
            first = reason if reason.startswith(named) else f"{named}: {reason}"
            said.append(f"{len(self.left_out)} LoRAs will be refused; the first: {first}")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "base": self.layout.base, "modules": len(self.layout.modules), "rank": self.rank, "layout": self.layout.hash,
            "files": self.num_files, "looked_at": self.num_seen, "refused": len(self.left_out),
            "lost_by_modules": self.lost_by_modules, "lost_by_rank": self.lost_by_rank,
            "most_lost": {"file": self.worst[0], "part": self.worst[1]}, "with_text_encoders": self.text_encoders,
            "rank_to_keep": self.rank_to_keep,
        }  # fmt: skip


def survey(
    loras: Sequence[Path], layout: Layout | None = None, rank: int | None = None, *, base: str | None = None
) -> Survey:
    """Look at some LoRAs, the same ones in every call, and choose what is not given.

    Args:
        loras: files and PEFT folders.
        layout: whose modules; None for those by which most of the LoRAs' ‖ΔW‖² comes in.
        rank: of all modules; None for the least that keeps `KEEP`.
        base: which base model they are for, whatever they say.

    Raises:
        ZooError: no LoRA can be read, or none has the layout's modules.
    """
    looks, bad = _look_at(loras, base)
    if not looks:
        first = f"; the first: {bad[0][1]}" if bad else ""
        raise ZooError(f"expected LoRAs to choose a layout by, got none of {len(loras)} that can be read{first}")
    modules = _modules_that_most_have(looks) if layout is None else of_rank(layout, 1)
    fitting = [look for look in looks if look.fits(modules)]
    if not fitting:
        reason = _why_not(looks[0], modules)
        raise ZooError(
            f"expected LoRAs with the {len(modules.modules)} modules of layout {modules.base!r}, got none of {len(looks)}; the "
            f"first, {shown(looks[0].path)}: {reason}; give --layout auto for what they have"
        )
    needed = _rank_to_keep(fitting, modules)
    chosen = of_rank(modules, rank or needed)
    losses = [
        (look, 1 - by_modules, by_modules - by_rank) for look in fitting for by_modules, by_rank in [look.kept(chosen)]
    ]
    worst, modules_of_worst, rank_of_worst = max(losses, key=lambda loss: loss[1] + loss[2])
    others = [(look.path, _why_not(look, chosen)) for look in looks if not look.fits(chosen)]
    return Survey(
        layout=chosen, num_files=len(loras), num_seen=len(looks) + len(bad), left_out=(*others, *bad),
        lost_by_modules=sum(loss[1] for loss in losses) / len(losses), lost_by_rank=sum(loss[2] for loss in losses) / len(losses),
        worst=(str(worst.path), modules_of_worst + rank_of_worst), text_encoders=sum(look.text_encoder for look in fitting),
        rank_to_keep=needed,
    )  # fmt: skip


def of_rank(layout: Layout, rank: int) -> Layout:
    """A layout at a rank, or the width of a layer where that is less: no update has more."""
    modules = (replace(m, rank=min(rank, m.in_features, m.out_features)) for m in layout.modules)
    return replace(layout, modules=tuple(modules))


def _look_at(loras: Sequence[Path], base: str | None) -> tuple[list[_Look], list[tuple[Path, str]]]:
    """Some LoRAs that can be read and do something, and those that cannot, with the reason."""
    looks: list[_Look] = []
    bad: list[tuple[Path, str]] = []
    for place in random.Random(0).sample(range(len(loras)), len(loras)):
        if len(looks) == SAMPLE:
            break
        try:
            looks.append(_look(loras[place], base))
        except Exception as error:  # whatever a file makes of its reader: the import will say so of it again
            bad.append((loras[place], printable(str(error) or type(error).__name__, 300)))
    return looks, bad


def _look(path: Path, base: str | None) -> _Look:
    raw = read_raw(path)
    lora = LoRA.load(path, unet_only=True, base=base, raw=raw)
    energies = {}
    for name, (A, B) in lora.layout.split(lora.vector[None]).items():
        energies[name] = canonical_factors(A, B)[2][0].square().tolist()
    if not sum(map(sum, energies.values())) > 0:
        raise LayoutError("expected an update, got zero everywhere")
    modules = {m.name: replace(m, rank=1) for m in lora.layout.modules}
    return _Look(path, lora.layout.base, modules, energies, bool(text_encoder_keys(parse_header(raw[0])[0])))


def _modules_that_most_have(looks: Sequence[_Look]) -> Layout:
    """The modules, of rank 1, by which most of ‖ΔW‖² of all LoRAs comes in: a LoRA without one of them gives nothing."""
    tried: dict[tuple[str, frozenset[Module]], float] = {}
    for base in sorted({look.base for look in looks}):
        of_base = [look for look in looks if look.base in ("", base)]
        sets = [s for s, _ in Counter(frozenset(look.modules.values()) for look in of_base).most_common(_MOST_SETS)]
        for modules in {*sets, *(one & other for one, other in combinations(sets, 2))} - {frozenset[Module]()}:
            layout = Layout(base=base, modules=tuple(modules))
            tried[base, modules] = sum(look.kept(layout)[0] for look in of_base if look.fits(layout))
    # Of equals the one with more modules; then by name, so that it is the same in every run.
    base, best = max(tried, key=lambda key: (round(tried[key], 6), len(key[1]), key[0], sorted(m.name for m in key[1])))
    return Layout(base=base, modules=tuple(best))


def _rank_to_keep(looks: Sequence[_Look], modules: Layout) -> int:
    needed = sorted(_rank_of(look, modules) for look in looks)
    return needed[max(0, -(-19 * len(needed) // 20) - 1)]


def _rank_of(look: _Look, modules: Layout) -> int:
    """The least rank that keeps `KEEP` of one LoRA's ‖ΔW‖² in some modules."""
    here = [look.energies[m.name] for m in modules.modules]
    most = max(map(len, here))
    by_rank = [sum(energies[r] for energies in here if r < len(energies)) for r in range(most)]
    whole = sum(by_rank)
    return next((r for r, kept in enumerate(accumulate(by_rank), start=1) if kept >= KEEP * whole), most)


def _why_not(look: _Look, layout: Layout) -> str:
    if look.base not in ("", layout.base):
        return f"is for {look.base!r}"
    missing = next(m.name for m in layout.modules if look.modules.get(m.name) != replace(m, rank=1))
    return f"has {len(look.modules)} modules, and not {missing} in that shape"
