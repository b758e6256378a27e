"""Filling a zoo from any number of processes, started and killed at any time: what comes out is what one alone would have made.

Each claims a bank of people, makes its LoRAs, and appends them as one shard, all or none. Who finds everybody in, puts the
manifest in order and sweeps up. So a finished folder is a function of the recipe alone, byte for byte, if making a bank is one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from lorasynth.errors import ZooError
from lorasynth.workers.leases import EXPIRES_AFTER_S, Leases
from lorasynth.workers.locks import locked
from lorasynth.zoo.manifest import free_shard_name, put_in_order
from lorasynth.zoo.rewrite import delete
from lorasynth.zoo.store import Zoo

MakeBank = Callable[[list[int]], tuple[Float[Tensor, "n P"], Float[Tensor, "n J D"]]]
"""LoRAs and embeddings of some people, which depend on these people alone."""
_LEFTOVERS = (".shard-*.part", ".manifest.jsonl.*.part", ".zoo.json.*.part", ".init.safetensors.*.part")


def fill(
    zoo: Zoo,
    banks: Mapping[str, Sequence[int]],
    make: MakeBank,
    *,
    split: Callable[[int], str],
    source: str,
    licence: str,
    on_look: Callable[[int], None] = lambda _: None,
    expires_after_s: float = EXPIRES_AFTER_S,
) -> Zoo:
    """Make everybody of some banks who is not in a zoo yet and was not taken out, together with whoever else does the same.

    Args:
        zoo: where to.
        banks: people by shard name, in the order in which to begin.
        make: trains a bank.
        split: of a person.
        source: where their LoRAs come from.
        licence: what they may be used for.
        on_look: called now and then with how many people of the banks are missing.
        expires_after_s: when a silent process of another machine is given up.

    Returns:
        The zoo with all of them.

    Raises:
        ZooError: a LoRA is not finite, or the folder's locks do not reach another machine.
        UsageError: the disk is full or not writable; what is stored stays.
    """
    leases = Leases(zoo.folder, expires_after_s=expires_after_s)
    leases.require_locks_that_reach()
    ledger, left = zoo.ledger, {shard: list(persons) for shard, persons in banks.items()}

    def unfinished() -> Iterator[str]:
        ledger.refresh()
        for shard in list(left):
            if missing := ledger.missing(left[shard]):
                left[shard] = missing
                yield shard
            else:
                del left[shard]

    _sweep(zoo)
    leases.share_out(
        unfinished,
        lambda shard: _fill_bank(zoo, shard, left[shard], make, split, source, licence),
        lambda: on_look(sum(map(len, left.values()))),
    )
    with locked(zoo.folder):
        put_in_order(zoo.folder)
        leases.tidy()
    _sweep(zoo)
    return Zoo.open(zoo.folder)


def _fill_bank(
    zoo: Zoo,
    bank: str,
    persons: list[int],
    make: MakeBank,
    split: Callable[[int], str],
    source: str,
    licence: str,
) -> None:
    """Make and store those of a bank who are missing by now."""
    ledger = zoo.ledger
    ledger.refresh()
    if not (missing := ledger.missing(persons)):
        return
    vectors, embeddings = make(missing)
    shard = free_shard_name(bank, ledger.shards)
    try:
        zoo.append(shard, missing, [split(person) for person in missing], vectors, embeddings, source, licence)
    except ZooError:
        # Another owner of the lease was faster, or somebody was taken out meanwhile: the manifest is right.
        ledger.refresh()
        if ledger.missing(missing) == missing:
            raise


def _sweep(zoo: Zoo) -> None:
    """Delete what killed writers left. All of it is written under the lock."""
    with locked(zoo.folder):
        delete([path for pattern in _LEFTOVERS for path in zoo.folder.glob(pattern)])
