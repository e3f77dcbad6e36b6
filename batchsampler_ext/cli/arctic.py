"""Writes a plan as the pre-batched tokens that ArcticTraining's contrastive pretraining reads.

The format is that of ``ContrastiveLearningBatchDataset`` and ``pretokenize.py`` in the public repository
snowflakedb/ArcticTraining (projects/arctic_embed). It reads the directories below "data" in the order of their names,
one global batch each, and every rank takes an equal part of the queries and of the documents of a batch:

    metadata.json
    data/batch_00000000/queries.parquet    BATCH_QUERY_ID int32, QUERY_TOKEN_ID_LIST large list of integers
                       /documents.parquet  BATCH_DOCUMENT_ID int32, DOCUMENT_TOKEN_ID_LIST
                       /relations.parquet  BATCH_QUERY_ID, BATCH_DOCUMENT_ID, RELEVANCE float64: 1 for a pair

Epochs follow one another, so the trainer makes one pass over the directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..plan import Plan
from .inputs import import_pyarrow, reading
from .progress import Progress


def write_arctic(plan: Plan, queries_file: str, documents_file: str, folder: Path, progress: Progress) -> None:
    """Both files of tokens are held in memory.

    Raises:
        ValueError: a file without a single column of lists of integers, or of another number of rows.
    """
    pyarrow = import_pyarrow("--format arctic")
    queries = _tokens(pyarrow, queries_file, "--queries-file", plan.num_instances)
    documents = _tokens(pyarrow, documents_file, "--documents-file", plan.num_instances)
    (folder / "data").mkdir()
    metadata = {"batch_size": plan.batch_size, "num_epochs": plan.num_epochs, "plan": plan.info}
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2))
    number = 0
    for epoch in range(plan.num_epochs):
        for ids in plan.batches(epoch):
            batch = folder / "data" / f"batch_{number:08d}"
            batch.mkdir()
            places, rows = np.arange(len(ids), dtype=np.int32), pyarrow.array(ids.numpy())
            tables: dict[str, dict[str, Any]] = {
                "queries": {"BATCH_QUERY_ID": places, "QUERY_TOKEN_ID_LIST": queries.take(rows)},
                "documents": {"BATCH_DOCUMENT_ID": places, "DOCUMENT_TOKEN_ID_LIST": documents.take(rows)},
                "relations": {
                    "BATCH_QUERY_ID": places,
                    "BATCH_DOCUMENT_ID": places,
                    "RELEVANCE": np.ones(len(ids)),
                },
            }
            for name, columns in tables.items():
                pyarrow.parquet.write_table(pyarrow.table(columns), batch / f"{name}.parquet")
            number += 1
        progress(epoch + 1, plan.num_epochs)


def _tokens(pyarrow: Any, path: str, name: str, num_rows: int) -> Any:
    """Returns the column of lists of integers as one array of large lists."""
    types = pyarrow.types
    with reading(path, name, "a parquet file"):
        schema = pyarrow.parquet.read_schema(path)
        found = [
            field.name
            for field in schema
            if (types.is_list(field.type) or types.is_large_list(field.type))
            and types.is_integer(field.type.value_type)
        ]
    if len(found) != 1:
        raise ValueError(f"{name}: expected one column of lists of token ids in {path!r}, got {found}")
    with reading(path, name, "a parquet file"):
        table = pyarrow.parquet.read_table(path, columns=found)
        table.validate(full=True)  # offsets of lists in a damaged file may be beyond its values
        column = table.column(0)
    if len(column) != num_rows:
        raise ValueError(f"{name}: expected a row for each of {num_rows} instances, got {len(column)} in {path!r}")
    if column.null_count:
        raise ValueError(f"{name}: expected token ids in each row, got {column.null_count} empty ones in {path!r}")
    value_type = column.type.value_type
    return column.cast(pyarrow.large_list(value_type)).combine_chunks()
