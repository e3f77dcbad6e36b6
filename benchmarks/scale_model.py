"""Memory, traffic and lower bounds of time for graphs and partitions of 1e8 and 1e9 rows on 8 and 64 GPUs.

``python benchmarks/scale_model.py`` prints the tables of docs/scale.md. Nothing is measured: bytes are counted from the
code, and times are bytes or operations divided by rates of the data sheet. GB means 10**9 bytes.

Designs:
    (a) whole   Each GPU holds bank and graph of all rows, builds its share of the graph, and plans by itself.
    (b) shards  Bank, graph and partition state are sharded by row. Only the batch of each row is on every GPU.
    (c) parts   Each epoch is cut into W random parts. A GPU builds the graph of its part and partitions it.
"""

from __future__ import annotations

# Bytes, and rates per second, of an H200 SXM: https://www.nvidia.com/en-us/data-center/h200/ (NVLink: half of the 900
# GB/s, which count both directions). Its L2 cache is that of the H100. Network: a 400 Gb/s adapter per GPU, as in the
# DGX H200 (https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html).
MEMORY, MEMORY_RATE, L2, SECTOR = 141e9, 4.8e12, 50e6, 32  # SECTOR: fetched by a random read
NVLINK, NETWORK, GPUS_PER_NODE = 450e9, 50e9, 8  # rates are per direction and GPU
FLOPS = 0.6 * 989e12  # dense bfloat16; share of the peak that mma.sync reaches (csrc/cuda/types/tuning.h)

DIM, CANDIDATES, BATCH = 128, 1000, 256
GROUPS = (256, 1024, 4096)  # candidate_group_size; the first is the default
SIZES = [(rows, gpus) for rows in (10**8, 10**9) for gpus in (8, 64)]
MAX_VOTES, FEW_VOTES, SEED_SIZE = 128, 16, 4  # csrc/common/partition_rules.h

# --- bytes per row, or of the whole, on a CUDA device ---

FEATURES = 2 * DIM  # bfloat16
BANK = FEATURES + 8 + 8  # last_update (_bank/files.py), claims (_bank/store.py)


def graph_bytes(neighbors: int) -> int:
    """Bytes per row: neighbors, and what the sampler's graph has beside them (ids, degrees, row_of)."""
    return 4 * neighbors + 8 + 4 + 4


def graph_scratch(rows: int) -> float:
    """Norms, order, and at most 64 MiB of drawn candidates (csrc/cuda/search/proximity_graph.cu)."""
    return 8 * rows + min(2**26, -(-rows // GROUPS[0]) * 4 * (CANDIDATES + 1))


def partition_scratch(rows: int, batch: int = BATCH) -> float:
    """The buffer of csrc/cuda/partition/memory.h, without its alignment."""
    batches = -(-rows // batch)
    log_groups = 1
    while 16 << (log_groups + 1) <= rows:
        log_groups += 1
    by_emptiness, by_batch = (min(batch, rows) + 1) * -(-batches // 16), batches * -(-min(batch, rows) // 16)
    groups = max(batches, 1 << log_groups, by_emptiness, by_batch)
    # order, owner, former, two flags, claims; items, slots, members of groups; two lists of rows
    per_row = 4 + 4 + 4 + 2 + 8 + 16 + 4 + 16 + 8
    return per_row * rows + 32 * batches + 8 * groups


def plan_bytes(rows: int) -> float:
    """Partition state, and the planned rows as int32."""
    return partition_scratch(rows) + 4 * rows


# Host memory of a process (_sampler/plan_maker.py): instances int64, drawn bool, plan int32. While the plan is checked,
# also undrawn ids int64, and the plan sorted, as int32 and int64, with int64 places.
HOST = 8 + 1 + 4 + 8 + 4 + 8 + 8


def memory(rows: int, gpus: int, neighbors: int) -> dict[str, float]:
    """Bytes per GPU while it partitions. That is the peak: building the graph takes less."""
    part, graph = -(-rows // gpus), graph_bytes(neighbors)
    return {
        "whole": rows * (BANK + graph) + plan_bytes(rows),
        "shards": part * (BANK + graph) + plan_bytes(part) + 4 * (rows - part),  # owners of all rows, the rest sharded
        "parts": part * (BANK + FEATURES + graph) + plan_bytes(part),  # its shard of the bank, and rows of its part
    }


# --- traffic: bytes that each GPU receives ---


def lacking(gpus: int) -> float:
    """Share of evenly distributed data that is on other GPUs."""
    return (gpus - 1) / gpus


def fetched(rows: int, gpus: int, group: int) -> float:
    """The rows and the M + 1 candidates of each group of a GPU. The groups are random, so most rows are elsewhere."""
    return rows / gpus / group * (group + CANDIDATES + 1) * FEATURES * lacking(gpus)


def traffic(rows: int, gpus: int) -> dict[str, float]:
    return {
        "updates": rows * (4 * DIM + 8) * lacking(gpus),  # float32 rows and ids of all ranks (_bank/gather.py)
        "routed": rows / gpus * (4 * DIM + 8) * lacking(gpus),
        "stream": rows * FEATURES * lacking(gpus),
        "owners": 4 * rows * lacking(gpus),
        "parts": rows / gpus * FEATURES * lacking(gpus),
        **{f"fetch {group}": fetched(rows, gpus, group) for group in GROUPS},
        **{f"graph {k}": 4 * k * rows * lacking(gpus) for k in (32, 100)},
    }


# --- lower bounds of time in seconds ---


def all_to_all(received: float, gpus: int) -> float:
    """Each GPU receives data that no other GPU needs, from all others evenly."""
    share = (min(gpus, GPUS_PER_NODE) - 1) / (gpus - 1)
    return max(received * share / NVLINK, received * (1 - share) / NETWORK)


def all_gather(received: float, gpus: int) -> float:
    """All GPUs receive the same data. It enters a node once, over all its adapters, and NVLink distributes it."""
    total = received / lacking(gpus)
    adapter = total * (1 - min(gpus, GPUS_PER_NODE) / gpus) / GPUS_PER_NODE
    return max(adapter / NETWORK, (received - adapter) / NVLINK)


def graph_seconds(rows: float, neighbors: int) -> float:
    """The products on tensor cores, or reading the rows of all groups once and writing the graph."""
    products = 2 * rows * (CANDIDATES + 1) * DIM / FLOPS
    read = rows / GROUPS[0] * (GROUPS[0] + CANDIDATES + 1) * FEATURES
    return max(products, (read + 4 * neighbors * rows) / MEMORY_RATE)


def votes_seconds(rows: float, neighbors: int) -> float:
    """Only the first four vote rounds (csrc/common/partition_schedule.h). Other rounds and steps come on top.

    A vote reads a neighbor id and its batch, at random. In the first round all rows vote except the seeds. In the next
    three, batches may be filled to 1/4, 2/4 and 3/4, so at least 3/4, 2/4 and 1/4 of the rows vote again, with at least
    FEW_VOTES each.
    """
    votes = (1 - SEED_SIZE / BATCH) * (min(neighbors, MAX_VOTES) + 1.5 * min(neighbors, FEW_VOTES))
    misses = 1 - min(1, L2 / (4 * rows))
    return rows * votes * (4 + SECTOR * misses) / MEMORY_RATE


# --- tables ---


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [heads, *rows]]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]]).replace("e+0", "e")


def memory_table() -> str:
    heads = ["GB", "K", "(a) bank", "(a) graph", "(a) plan", "(a) sum", "(a) host", "(b) sum", "(c) sum"]
    lines = []
    for rows, gpus in SIZES:
        for k in (32, 100):
            sums = {name: number(v / 1e9) + " **no**" * (v > MEMORY) for name, v in memory(rows, gpus, k).items()}
            parts = [number(part / 1e9) for part in (rows * BANK, rows * graph_bytes(k), plan_bytes(rows))]
            sums = [sums["whole"], number(rows * HOST / 1e9), sums["shards"], sums["parts"]]
            lines.append([f"{rows:.0e} on {gpus}", str(k), *parts, *sums])
    return table(heads, lines)


def traffic_table() -> str:
    names = {
        "updates": "(a) updates", "graph 32": "(a) graph, K = 32", "graph 100": "(a) graph, K = 100",
        "stream": "(b) stream", **{f"fetch {g}": f"(b) fetch, groups of {g:,}" for g in GROUPS},
        "owners": "(b) batches, per round", "routed": "(b), (c) updates", "parts": "(c) rows of the part",
    }  # fmt: skip
    found = [traffic(*size) for size in SIZES]
    lines = [[head, *(number(one[name] / 1e9) for one in found)] for name, head in names.items()]
    return table(["GB", *(f"{rows:.0e} on {gpus}" for rows, gpus in SIZES)], lines)


def time_table(neighbors: int = 100) -> str:
    lines: dict[str, list[str]] = {}
    for rows, gpus in SIZES:
        moved, part = traffic(rows, gpus), rows / gpus
        fits = {name: needed < MEMORY for name, needed in memory(rows, gpus, neighbors).items()}
        bounds = {
            "graph, all designs": (True, graph_seconds(part, neighbors)),
            "(a) gather the graph": (fits["whole"], all_gather(moved[f"graph {neighbors}"], gpus)),
            "(a) first votes": (fits["whole"], votes_seconds(rows, neighbors)),
            "(b) stream": (fits["shards"], all_gather(moved["stream"], gpus)),
            **{f"(b) fetch, groups of {g:,}": (fits["shards"], all_to_all(moved[f"fetch {g}"], gpus)) for g in GROUPS},
            "(b) batches, per round": (fits["shards"], all_gather(moved["owners"], gpus)),
            "(c) rows of the part": (fits["parts"], all_to_all(moved["parts"], gpus)),
            "(c) first votes": (fits["parts"], votes_seconds(part, neighbors)),
        }
        for name, (has_room, seconds) in bounds.items():
            lines.setdefault(name, [name]).append(number(1e3 * seconds) if has_room else "does not fit")
    return table(["ms", *(f"{rows:.0e} on {gpus}" for rows, gpus in SIZES)], list(lines.values()))


def tables() -> list[str]:
    return [memory_table(), traffic_table(), time_table()]


if __name__ == "__main__":
    print("\n\n".join(tables()))
