"""The systems of the study and their data: which program, which arguments, what is searched.

Data of the search and of the confirmation are never the same instances. {data} is the directory that --data names.
"""

from __future__ import annotations

from .plan import Setting, System

RETRIEVAL = System(
    name="retrieval",
    metric="recall_at_1",
    arguments=("--epochs", "10", "--batch-size", "256", "--test-groups", "4000", "--eval-every", "1"),
    tune=Setting("captions, tuning half", ("{data}/study/captions_tune.tsv",), 1),
    confirm=(
        Setting("captions, other half", ("{data}/study/captions_confirm.tsv",), 10),
        Setting("wikisplit", ("{data}/text/wikisplit.tsv",), 10),
    ),
    ranges={"lr": (1.5e-3, 1.5e-2), "temperature": (0.03, 0.15)},
    candidates=(250, 1000, 4000),
    losses=("infonce", "dcl", "hcl"),
    num_dissection_seeds=6,
)

GRAPHCL = System(
    name="graphcl",
    metric="svm_accuracy",
    arguments=("--epochs", "20", "--batch-size", "128", "--eval-every", "5"),
    tune=Setting("NCI1", ("{data}/tu", "NCI1"), 1),
    # On NCI1 training helps most: other seeds than the search's, the same graphs.
    confirm=tuple(Setting(name, ("{data}/tu", name), 10) for name in ("NCI1", "PROTEINS", "IMDB-BINARY", "MUTAG")),
    ranges={"lr": (5e-4, 1e-2), "temperature": (0.1, 1.0)},
    candidates=(64, 250, 1000),
    losses=("infonce", "dcl", "hcl"),
)

PROFILES = {"cpu": (RETRIEVAL, GRAPHCL)}


def profile_systems(profile: str) -> dict[str, System]:
    return {system.name: system for system in PROFILES[profile]}
