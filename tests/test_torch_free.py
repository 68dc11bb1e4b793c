"""Importing the package loads no PyTorch, even where it is installed, and no kernels."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import greedy_prune_jax
from tests.helpers.reference import tiny_config

ROOT = Path(greedy_prune_jax.__file__).parent
JOBS = [f"greedy_prune_jax.jobs.{path.stem}" for path in sorted((ROOT / "jobs").glob("[a-z]*.py"))]


def run(code: str) -> None:
  """Runs code in a process of its own: here, the tests' oracle has imported PyTorch."""
  assert importlib.util.find_spec("torch") is not None  # else this proves nothing
  code = textwrap.dedent(code)
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


def test_there_are_jobs():
  assert "greedy_prune_jax.jobs.distill" in JOBS


@pytest.mark.slow
def test_importing_loads_no_pytorch():
  run(f"""
    import importlib, sys
    for module in {["greedy_prune_jax", *JOBS]!r}:
      importlib.import_module(module)
      assert "torch" not in sys.modules, module
  """)


@pytest.mark.slow
def test_a_search_loads_no_kernels():
  """A quarter of a second; and Pallas' parts for GPUs will leave JAX."""
  run("""
    import sys
    import greedy_prune_jax.jobs.prune, greedy_prune_jax.pruning.run
    assert "jax.experimental.pallas" not in sys.modules
  """)


@pytest.mark.slow
def test_metrics_are_written_without_pytorch(tmp_path):
  run(f"""
    import sys
    from pathlib import Path
    from greedy_prune_jax.distill.metrics import MetricsLog
    with MetricsLog(Path({str(tmp_path)!r}), 0) as log:
      log.write(1, {{"loss": 0.5}})
    assert "torch" not in sys.modules
  """)
  assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.slow
def test_models_of_pytorch_can_be_used_after_a_config_was_read_without_it(tmp_path):
  tiny_config("gemma3_text").save_pretrained(tmp_path)
  run(f"""
    import sys
    from greedy_prune_jax.models.hf_config import read_hf_config
    read_hf_config({str(tmp_path / "config.json")!r})
    assert "torch" not in sys.modules
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained({str(tmp_path)!r}))
    assert model.generate(torch.tensor([[1, 2]]), max_new_tokens=2).shape[1] > 2
  """)


@pytest.mark.slow
@pytest.mark.parametrize(
  "broken",
  [
    # the import with PyTorch hidden fails
    "import builtins; real = builtins.__import__\n"
    "def refuse(name, *args, **kwargs):\n"
    "  if 'modeling_rope_utils' in name and sys.modules.get('torch', 0) is None:\n"
    "    raise RuntimeError('a release that wants PyTorch')\n"
    "  return real(name, *args, **kwargs)\n"
    "builtins.__import__ = refuse",
    # transformers has another way to look for PyTorch
    "from transformers.utils import import_utils\n"
    "import transformers.utils\n"
    "import_utils.is_torch_available = transformers.utils.is_torch_available = lambda: True",
  ],
)
def test_a_release_that_breaks_the_guard_is_slower_and_nothing_else(broken, tmp_path):
  config = tiny_config("llama")
  config.save_pretrained(tmp_path)
  code = f"""
import sys
{broken}
from greedy_prune_jax.models.hf_config import read_hf_config
assert read_hf_config({str(tmp_path / "config.json")!r}).vocab_size == {config.vocab_size}
assert "torch" in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
