"""How samplers are constructed. Lightning and Fabric would put new samplers in place of the user's."""

from __future__ import annotations

from typing import Any, Protocol

from torch.utils.data.distributed import DistributedSampler

from .wrappers import sampler_to_rebuild


class SamplerType(type(Protocol)):  # type: ignore[misc]  # so that subclasses may have protocols as further bases
    """The type of sampler classes.

    On several ranks, Lightning and Fabric construct each batch sampler anew, with a distributed sampler in it. Ours
    share their batches among ranks themselves, so the existing sampler stays. It is the one that the user saves, loads
    and asks for statistics. ``use_distributed_sampler`` has no effect then.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        existing = sampler_to_rebuild(cls)
        if existing is None:
            sampler = super().__call__(*args, **kwargs)
            # Lightning notes the arguments of samplers that a hook constructs. With them, it would expect one that is
            # called `sampler`. Without them, it calls the class with `batch_size` and `drop_last`.
            for name in [name for name in vars(sampler) if name.startswith("__pl_saved_")]:
                del vars(sampler)[name]
            return sampler
        _check_ranks(existing, args[0] if args else kwargs.get("sampler"))
        num_left_out = existing._num_left_out()
        if kwargs.get("drop_last") is False and existing.drop_last and num_left_out:
            raise ValueError(
                f"{cls.__name__}: expected drop_last=False for predictions, got a sampler that leaves out "
                f"{num_left_out} instances. Write DataLoader(dataset, batch_size={existing.batch_size}) in "
                "predict_dataloader"
            )
        return existing


def _check_ranks(existing: Any, given: Any) -> None:
    """Raises ``ValueError`` if a sampler shares its batches among other ranks than the trainer. given: to be put in."""
    if not isinstance(given, DistributedSampler):
        return
    found = existing._find_ranks()
    if found != (given.rank, given.num_replicas):
        raise ValueError(
            f"{type(existing).__name__}: expected a sampler that shares its batches among the {given.num_replicas} "
            f"processes of the trainer, of which this is number {given.rank}, got rank {found.rank} and num_replicas "
            f"{found.num_replicas}. Leave out rank= and num_replicas=. Where only some processes share data, pass "
            "both, and FeatureBank(process_group=...)"
        )
