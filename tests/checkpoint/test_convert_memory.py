"""Converting two gigabytes takes a fraction of that in memory."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from checkpoint_made_here import text_only

from k25.checkpoint.config_write import config_json
from k25.checkpoint.layout import Layout, stored_tensors
from k25.checkpoint.safetensors_file import DTYPES, write_safetensors

CONFIG = text_only(
    hidden_size=2048, moe_intermediate_size=1408, n_routed_experts=40, num_hidden_layers=4, intermediate_size=4096
)
MEGABYTE = 10**6
CONVERT_AND_MEASURE = """
import sys
from pathlib import Path
from k25.checkpoint.convert import convert
convert(sys.argv[1], sys.argv[2], experts="int4", granularity=sys.argv[3])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture(scope="module")
def two_gigabytes(tmp_path_factory):
    """In transformers' layout, where one tensor holds all experts of a layer; one file per layer."""
    folder = tmp_path_factory.mktemp("big")
    weight_map = {}
    for number, unit in enumerate(stored_tensors(CONFIG, Layout(experts="fused"))):
        name = f"model-{number}.safetensors"
        tensors = ((t.name, torch.full(t.shape, 0.01, dtype=DTYPES[t.dtype])) for t in unit)
        write_safetensors(folder / name, {t.name: (t.dtype, t.shape) for t in unit}, tensors)
        weight_map |= {t.name: name for t in unit}
    (folder / "config.json").write_text(json.dumps(config_json(CONFIG, "bfloat16", int4_experts=False)))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("granularity", ["tensor", "shard"])
def test_memory_stays_under_a_gigabyte_beyond_what_was_asked_for(two_gigabytes, tmp_path, granularity):
    sizes = [path.stat().st_size for path in two_gigabytes.glob("*.safetensors")]
    assert sum(sizes) > 2000 * MEGABYTE
    allowed = 1000 * MEGABYTE + (max(sizes) if granularity == "shard" else 0)
    arguments = [str(two_gigabytes), str(tmp_path / "out"), granularity]
    try:
        done = subprocess.run(
            [sys.executable, "-c", CONVERT_AND_MEASURE, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=900,
        )
    finally:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
    peak = int(done.stdout) * 1024
    assert peak < allowed
