"""The scripts and the notebook of `examples` run as they stand."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.tiny_runs import make_model, write_chains

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TESTED = {"own_ranking.py", "own_question_set.py", "pruned_set_for_trl.py", "prune_a_chain.ipynb"}
# Optimised code on one device, as a user has it: a quarter of the time.
ENV = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
ENV |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def run_script(name, *args):
  command = [sys.executable, str(EXAMPLES / name), *args]
  with tempfile.TemporaryDirectory() as folder:
    # An installed package is all that a user's Python knows of the clone.
    (Path(folder) / "greedy_prune_jax").symlink_to(ROOT / "greedy_prune_jax")
    env = ENV | {"PYTHONPATH": folder}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_every_example_is_tested():
  files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
  assert files == TESTED


@pytest.mark.slow
def test_a_ranking_of_ones_own(tmp_path):
  make_model(tmp_path / "model")
  printed = run_script("own_ranking.py", f"--model={tmp_path / 'model'}")
  assert "greedy: joint NLL " in printed
  assert "longest_first: joint NLL " in printed


@pytest.mark.slow
def test_a_question_set_of_ones_own(tmp_path):
  make_model(tmp_path / "model", max_position_embeddings=512)
  printed = run_script("own_question_set.py", f"--model={tmp_path / 'model'}", "--num_chains=1")
  assert printed.count("whole: ") == printed.count("half:  ") == 1
  assert " times " in printed


@pytest.mark.slow
def test_a_pruned_set_for_trl(tmp_path):
  make_model(tmp_path / "model")
  chains = write_chains(tmp_path / "chains.jsonl")
  job = [sys.executable, "-m", "greedy_prune_jax.jobs.prune", "--config=configs/prune.py"]
  settings = {"pruner": tmp_path / "model", "chains": chains, "keep_ratios": "(0.5,)"}
  job += [f"--workdir={tmp_path / 'pruned'}", "--config.show_chains=0"]
  job += [f"--config.{name}={value}" for name, value in settings.items()]
  subprocess.run(job, cwd=ROOT, env=ENV, check=True)
  out = tmp_path / "sft"
  printed = run_script("pruned_set_for_trl.py", f"--pruned={tmp_path / 'pruned'}", f"--out={out}")
  assert "3 conversations; the first:" in printed
  assert "[user] How many clips did Natalia sell?" in printed
  assert f'load_dataset("{out}", split="train")' in printed


@pytest.mark.slow
def test_the_notebook_runs_as_it_stands(tmp_path):
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  notebook = nbformat.read(EXAMPLES / "prune_a_chain.ipynb", as_version=4)
  assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code"].count([]) > 5
  resources = {"metadata": {"path": str(tmp_path)}}
  client = nbclient.NotebookClient(
    notebook, timeout=900, kernel_name="python3", resources=resources
  )
  client.execute(env=ENV)
  outputs = [json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
  assert "text/html" in outputs[2]
  assert "nll" in outputs[2]
  assert "the orders part at deletion" in outputs[4]
  assert "'think'" in outputs[5]
  printed = "".join(out.get("text", "") for out in notebook.cells[-2].outputs)
  first, last = map(float, re.findall(r"step \d+: (\d+\.\d+)", printed))
  assert last < first
