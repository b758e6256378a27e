"""What a LoRA file is and says of itself, as the gate has seen it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lorasynth.storage.faults import Fault, FaultyFileError, printable, shown
from lorasynth.storage.header import MAX_HEADER_BYTES


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a LoRA file is and says.

    Attributes:
        path: the file or folder.
        format: "kohya", "diffusers", "peft" or "xlabs", "mixed" if names of several are in it, or "unknown".
        base: as the caller said, by its metadata, or the one base that has all of its modules (see `bases`); "" if unknown.
        is_named: whether a base is named, or a known one has all of its modules' names: otherwise ``modules`` are the file's own
            names.
        rank: of all modules, or the different ranks there are.
        alphas: the different alphas among its tensors; empty if there are none, and alpha is the rank or stands in the metadata.
        num_modules: how many layers it adapts.
        modules: their names.
        norm: Frobenius norm of all weight updates together; None where it cannot be said.
        metadata: of the header, as found: show it escaped.
        faults: everything that is wrong or worth knowing.
    """

    path: str
    format: str = "unknown"
    base: str = ""
    is_named: bool = True
    rank: int | list[int] | None = None
    alphas: list[float] = field(default_factory=list)
    num_modules: int = 0
    modules: list[str] = field(default_factory=list)
    norm: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def own_format(self) -> str:
        """The format whose names the modules have because no base is known for them; "" if one is."""
        return "" if self.is_named else self.format

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return not any(fault.fatal for fault in self.faults)

    def require_ok(self) -> "Inspection":
        """Itself.

        Raises:
            LoRAFileError: the file cannot be used; the error names the first reason.
        """
        fatal = [fault for fault in self.faults if fault.fatal]
        if fatal:
            raise FaultyFileError(fatal[0], self.path, more=len(fatal) - 1)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, safe to print: what the file says of itself comes without control characters."""
        metadata = {printable(k, MAX_HEADER_BYTES): printable(v, MAX_HEADER_BYTES) for k, v in self.metadata.items()}
        return {**asdict(self), "path": shown(self.path), "metadata": metadata}
