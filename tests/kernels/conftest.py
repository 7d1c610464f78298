"""Every kernel test runs once per variant that this machine can run, torch's own operators included."""

import pytest
import torch

from k25 import kernels


@pytest.fixture(params=["amx_bf16", "avx512_bf16", "avx512", "avx2", "portable", "torch"])
def variant(request):
    if request.param not in kernels.available().variants:
        pytest.skip(f"this machine does not run {request.param}: {kernels.available().reason}")
    with kernels.use(request.param):
        yield request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)
