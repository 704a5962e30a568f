"""two-workers-cost: what an event costs two workers that share the partitions, against one alone; and more partitions.

The whole worker on 100 000 videos and users with full histories, as in `worker-vs-bare-faust`. Processor time of the
worker processes per event, with all their threads: the broker shares the two cores, so that a rate would not show it.
Events are published as fast as they are answered, at most 500 ahead for one worker. Two workers are asked twice: with
500 ahead for both together, so that each one's batches are about half as full as the one's, which is what a second
worker costs where one would do (`two-workers-cost`); and with twice the users and twice the events, 1 000 ahead, so
that each has what the one has, which is what a platform twice as large costs (`twice-the-users-cost`). Timed from the
first event to the last confirmation, after every user was answered once. More partitions have a broker of their own,
with the same users and events.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import workload
from tests.benchmarks.costs import Broker, Cost
from tests.benchmarks.metering import OUTSTANDING
from tests.benchmarks.results import Figure, Measured, Pairs
from tests.benchmarks.workload import Users

PARTITIONS = (1, 8, 32)
SHARED = 8  #: partitions of the comparison with two workers
USERS = 1000


def run(folder: Path, *, rounds: int, quick: bool, names: list[str]) -> dict[str, Measured]:
    """Microseconds of processor time per event as (two workers, one) and (more partitions, one), by round."""
    bundle = workload.bundle()
    events = 2_000 if quick else 10_000
    two, twice = (f"{name}-cost" in names for name in ("two-workers", "twice-the-users"))
    wanted = [count for count in PARTITIONS[1:] if f"{count}-partitions-cost" in names]
    counts = sorted({*wanted, *([1] if wanted else []), *([SHARED] if two or twice else [])})
    users = {count: Users(USERS) for count in counts}
    many = Users(2 * USERS, seed=1)
    brokers = {
        count: Broker(folder / f"{count}", count, [users[count], *([many] if twice and count == SHARED else [])])
        for count in counts
    }
    pairs: dict[str, Pairs] = {name: [] for name in names}
    memory: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        alone = {}
        for count in counts if number % 2 == 0 else counts[::-1]:
            with brokers[count] as broker:
                cost = broker.cost(users[count], events, bundle)
                alone[count] = cost.micros
                _say(number, rounds, f"{count} partitions", cost)
                if two and count == SHARED:
                    both = broker.cost(users[count], events, bundle, workers=2)
                    pairs["two-workers-cost"].append((both.micros, cost.micros))
                    memory[1].append(cost.memory)
                    memory[2].append(both.memory)
                    _say(number, rounds, "two workers", both)
                if twice and count == SHARED:
                    larger = broker.cost(many, 2 * events, bundle, workers=2, under_way=2 * OUTSTANDING)
                    pairs["twice-the-users-cost"].append((larger.micros, cost.micros))
                    _say(number, rounds, "two workers, twice the users", larger)
        for count in wanted:
            pairs[f"{count}-partitions-cost"].append((alone[count], alone[1]))
    found = {name: Measured(some) for name, some in pairs.items()}
    if two:
        found["two-workers-cost"].figures = [
            Figure.of("resident memory, one worker", "MiB", memory[1]),
            Figure.of("resident memory, two workers together", "MiB", memory[2]),
        ]
    return found


def _say(number: int, rounds: int, what: str, cost: Cost) -> None:
    print(f"  round {number + 1}/{rounds}: {what}: {cost.micros:,.0f} us an event", flush=True)
