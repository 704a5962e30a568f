"""What a process left off, another one takes up: with the same number of threads, or the last bits would differ."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402

from offline_train.stages import threads  # noqa: E402

pytestmark = pytest.mark.train


def counts():
    return {pool["num_threads"] for pool in threadpool_info()} | {torch.get_num_threads()}


def turn():
    """The best orthogonal turn between two spaces, as a refresh looks for it. Its bits depend on the threads."""
    random = np.random.default_rng(0)
    here = random.normal(size=(216, 200)) @ random.normal(size=(200, 256))
    there = here @ np.linalg.qr(random.normal(size=(256, 256)))[0]
    u, _, v = np.linalg.svd(here.T @ there)
    return (u @ v).tobytes()


def test_so_many_threads_compute_whatever_the_process_has():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2):
            outside = counts()
            with threads(1):
                assert counts() == {1}
            assert counts() == outside
    finally:
        torch.set_num_threads(before)


def test_a_turn_is_the_same_to_the_last_bit_in_any_process():
    turns = []
    for has in (1, 2):
        with threadpool_limits(has), threads(1):
            turns.append(turn())
    assert turns[0] == turns[1]
