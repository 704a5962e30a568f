"""two-workers-cost: what an event costs two workers that share the partitions, against one alone; and more partitions.

The whole worker on 100 000 videos and users with full histories, as in `worker-vs-bare-faust`. Processor time of the
worker processes per event, with all their threads: the broker shares the two cores, so that a rate would not show it.
Events are published as fast as they are answered, at most 500 ahead for one worker and 500 for two together, so that
two workers' batches are no fuller than one's. Timed from the first event to the last confirmation, after every user was
answered once. More partitions have a broker of their own, with the same users and events.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import workload
from tests.benchmarks.costs import Broker
from tests.benchmarks.results import Figure, Measured, Pairs
from tests.benchmarks.workload import Users

PARTITIONS = (1, 8, 32)
SHARED = 8  #: partitions of the comparison with two workers
USERS = 1000


def run(folder: Path, *, rounds: int, quick: bool, names: list[str]) -> dict[str, Measured]:
    """Microseconds of processor time per event as (two workers, one) and (more partitions, one), by round."""
    bundle = workload.bundle()
    events = 2_000 if quick else 10_000
    two = "two-workers-cost" in names
    wanted = [count for count in PARTITIONS[1:] if f"{count}-partitions-cost" in names]
    counts = sorted({*wanted, *([1] if wanted else []), *([SHARED] if two else [])})
    users = {count: Users(USERS) for count in counts}
    brokers = {count: Broker(folder / f"{count}", count, [users[count]]) for count in counts}
    pairs: dict[str, Pairs] = {name: [] for name in names}
    memory: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        alone = {}
        for count in counts if number % 2 == 0 else counts[::-1]:
            with brokers[count] as broker:
                cost = broker.cost(users[count], events, bundle)
                alone[count] = cost.micros
                print(f"  round {number + 1}/{rounds}: {count} partitions: {cost.micros:,.0f} us an event", flush=True)
                if two and count == SHARED:
                    both = broker.cost(users[count], events, bundle, workers=2)
                    pairs["two-workers-cost"].append((both.micros, cost.micros))
                    memory[1].append(cost.memory)
                    memory[2].append(both.memory)
                    print(f"  round {number + 1}/{rounds}: two workers: {both.micros:,.0f} us an event", flush=True)
        for count in wanted:
            pairs[f"{count}-partitions-cost"].append((alone[count], alone[1]))
    found = {name: Measured(some) for name, some in pairs.items()}
    if two:
        found["two-workers-cost"].figures = [
            Figure.of("resident memory, one worker", "MiB", memory[1]),
            Figure.of("resident memory, two workers together", "MiB", memory[2]),
        ]
    return found
