"""The rows of the matrix."""

from __future__ import annotations

from tests.frameworks.matrix import Framework

FRAMEWORKS = [
    Framework("torch", "tests.frameworks.plain:train_plain"),
    Framework("torch, worker processes", "tests.frameworks.plain:train_plain", options=(("num_workers", 2),)),
    Framework(
        "torch, two towers with gathered features",
        "tests.frameworks.two_towers:train_towers",
        training="tests.frameworks.two_towers:TowerTraining",
    ),
    Framework("torchdata StatefulDataLoader", "tests.frameworks.plain:train_stateful", packages=("torchdata",)),
    Framework(
        "torchdata StatefulDataLoader, worker processes",
        "tests.frameworks.plain:train_stateful",
        options=(("num_workers", 2),),
        packages=("torchdata",),
    ),
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
    *(
        Framework(
            f"sentence-transformers, {name}",
            "tests.frameworks.sentence_transformers:train_texts",
            options=tuple(options.items()),
            packages=("sentence_transformers", "datasets"),
            training="tests.frameworks.sentence_transformers:TextTraining",
        )
        for name, options in {
            "MultipleNegativesRankingLoss": {},
            "CachedMultipleNegativesRankingLoss": {"loss": "cached"},
            "MatryoshkaLoss": {"loss": "Matryoshka"},
            "gather_across_devices": {"loss": "gathered"},
        }.items()
    ),
    Framework(
        "sentence-transformers, several data sets",
        "tests.frameworks.sentence_transformers:train_texts",
        options=(("is_several", True),),
        packages=("sentence_transformers", "datasets"),
        training="tests.frameworks.sentence_transformers:TextTraining",
        refused=((("bank", 2), "expected one data set on 2 processes, got several with banks"),),
        reason="In a step, the processes train on different data sets, so their banks would wait for each other. "
        "`hard_batches` says so before training. Use plans there.",
    ),
    Framework("PyTorch Geometric", "tests.frameworks.pyg:train_graphs", packages=("torch_geometric",)),
    Framework(
        "pytorch-metric-learning, own loop with CrossBatchMemory and a miner",
        "tests.frameworks.metric_learning:train_losses",
        packages=("pytorch_metric_learning",),
    ),
    Framework(
        "pytorch-metric-learning, MetricLossOnly",
        "tests.frameworks.metric_learning:train_with_trainer",
        packages=("pytorch_metric_learning",),
    ),
]
