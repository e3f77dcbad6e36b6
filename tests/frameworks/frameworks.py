"""The rows of the matrix."""

from __future__ import annotations

from tests.frameworks.matrix import Framework

FRAMEWORKS = [
    Framework("torch", "tests.frameworks.plain:train_plain"),
    Framework("torchdata StatefulDataLoader", "tests.frameworks.plain:train_stateful", packages=("torchdata",)),
    *(
        Framework(
            f"Lightning, sampler made {'in' if in_hook else 'before'} train_dataloader, use_distributed_sampler={use}",
            "tests.frameworks.lightning:train_lightning",
            (("in_hook", in_hook), ("use_distributed_sampler", use)),
            packages=("lightning",),
        )
        for in_hook in (True, False)
        for use in (True, False)
    ),
    *(
        Framework(
            f"Fabric, use_distributed_sampler={use}",
            "tests.frameworks.lightning:train_fabric",
            (("use_distributed_sampler", use),),
            packages=("lightning",),
        )
        for use in (True, False)
    ),
]
