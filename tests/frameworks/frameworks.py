"""The rows of the matrix."""

from __future__ import annotations

from tests.frameworks.matrix import Framework

_ACCELERATE = [
    Framework(f"Accelerate, {name}", "tests.frameworks.accelerated:train_accelerate", options, packages=packages)
    for name, options, packages in (
        ("default", (), ("accelerate",)),
        ("workers", (("num_workers", 2),), ("accelerate",)),
        ("split_batches", (("split_batches", True),), ("accelerate",)),
        ("dispatch_batches", (("dispatch_batches", True),), ("accelerate",)),
        ("even_batches=False", (("even_batches", False),), ("accelerate",)),
        ("use_stateful_dataloader", (("use_stateful_dataloader", True),), ("accelerate", "torchdata")),
    )
]
_DEALT = (
    "Accelerate deals out whole batches. Of 25 for 2 processes, it repeats the first one, so that both have 13. A run "
    "that resumes with a loaded state repeats the first one that it draws, so its bank becomes another one. Of a plan "
    "of 25 full batches it would leave one out, so this is refused."
)

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
    *_ACCELERATE,
    Framework(
        "Accelerate's own prepare, num_replicas=1",
        "tests.frameworks.accelerated:train_prepared",
        missing=((("bank", 2), "UR"),),
        refused=((("plan", 2), "expected a number of batches that the 2 processes divide"),),
        reason=_DEALT,
        packages=("accelerate",),
        sampler=(("num_replicas", 1),),
        training="tests.frameworks.matrix:EvenTraining",
    ),
    Framework("Hugging Face Trainer", "tests.frameworks.hf_trainer:train_hf", packages=("transformers", "accelerate")),
    Framework(
        "Hugging Face Trainer, ignore_data_skip",
        "tests.frameworks.hf_trainer:train_hf",
        (("ignore_data_skip", True),),
        packages=("transformers", "accelerate"),
    ),
]
