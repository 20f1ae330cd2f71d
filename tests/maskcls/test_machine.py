"""A process keeps the memory that it frees, and returns it when asked, as the pages that the kernel clears show."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from maskcls import machine

BLOCK_MB, BLOCKS = 48, 10  # glibc keeps smaller ones by itself
PAGES = BLOCKS * BLOCK_MB * 256  # of 4 KiB
ROUND = f"""
import resource, threading
from maskcls import machine

def allocate(blocks):
    for _ in range(blocks):
        b"1" * ({BLOCK_MB} << 20)

def count():
    allocate(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate({BLOCKS})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
IN_A_THREAD = "thread = threading.Thread(target=count)\nthread.start()\nthread.join()"
A_FIT = """
from maskcls.recipe import Recipe
from maskcls.training.gpu_memory import rehearse
rehearse(Recipe().override({"backbone": "resnet10t", "weights": "none", "image_size": 32, "batch_size": 4}), "cpu")
"""
GIVEN_BACK = """
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

machine.keep_freed_memory()
blocks = [b"1" * (48 << 20) for _ in range(10)]
del blocks
kept = resident()
machine.give_back_memory()
print(kept - resident())
"""

pytestmark = pytest.mark.skipif(machine._glibc() is None, reason="the C library is not glibc")


def alone(code: str) -> int:
    """The number that it prints last, in a process of its own."""
    return int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
    )


@pytest.mark.parametrize("where", ["count()", IN_A_THREAD])
def test_what_is_freed_is_not_cleared_again(where: str) -> None:
    assert alone(f"{ROUND}\n{where}") > PAGES / 2
    assert alone(f"{ROUND}\nmachine.keep_freed_memory()\n{where}") < PAGES / 20


@pytest.mark.slow
def test_a_process_with_a_fit_keeps_what_it_frees() -> None:
    assert alone(f"{A_FIT}\n{ROUND}\ncount()") < PAGES / 20


def test_what_is_free_is_given_back() -> None:
    assert alone(f"from maskcls import machine\n{GIVEN_BACK}") > PAGES / 2


def test_on_a_gpu_attention_is_its_plain_formula() -> None:
    """The flag's effect on the CPU's kernels stands for the GPU's: both obey the same switches."""
    switches = ("flash", "mem_efficient", "cudnn", "math")
    before = {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in switches}
    cudnn = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 8, generator=generator) for _ in range(3))
    plain = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1) @ v
    try:
        machine.use_deterministic_kernels(cuda=False)
        assert {name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in switches} == before
        machine.use_deterministic_kernels(cuda=True)
        on = [name for name in switches if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()]
        assert on == ["math"]
        torch.testing.assert_close(torch.nn.functional.scaled_dot_product_attention(q, k, v), plain)
    finally:
        for name, was in before.items():
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(was)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


def test_products_of_float32_are_rounded_to_tf32_inside_the_block_alone() -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    with machine.matrix_precision():
        assert products.fp32_precision == "tf32"
        assert torch.get_float32_matmul_precision() == "high", "torch.compile reads the older switch"
        with machine.matrix_precision("ieee"):
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "tf32"
    assert products.fp32_precision == before
    with pytest.raises(KeyError), machine.matrix_precision():
        raise KeyError
    assert products.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"
