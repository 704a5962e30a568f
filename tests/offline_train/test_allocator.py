from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.train

_SCRIPT = """
import resource, sys
import torch
from offline_train.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    tensors = [torch.ones(16 << 20) for _ in range(3)]  # 64 MB each
    return sum(float(tensor[-1]) for tensor in tensors)

for _ in range(20):  # until the heap has found its size
    use()
before = faults()
for _ in range(5):
    use()
print(faults() - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other allocators nothing is asked")
def test_large_tensors_get_the_pages_of_those_before() -> None:
    """Without it, each of 15 tensors of 64 MB gets pages of its own: 245 760 of 4 KB, or 480 of 2 MB."""
    assert _faults("keep") < 200
    assert _faults("plain") >= 400
