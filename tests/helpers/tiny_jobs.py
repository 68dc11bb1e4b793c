"""All jobs at a size that takes seconds: inputs, configs, runs in this process or as programs."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import teacher_forms
from tests.helpers.chat_server import serving
from tests.helpers.tiny_runs import CHAINS, make_model, write_chains

ONE_DEVICE = {"data": 1, "model": 1}
SEARCH_ON_ONE_DEVICE = {**ONE_DEVICE, "sequence": 1}
_ROWS = [
  {"question": f"{i} + {i}?", "answer": f"So.\n#### {2 * i}", "system": "Add."} for i in (1, 2)
]


def make_inputs(folder: Path) -> Path:
  """Writes a model, chains and questions, and runs a pruning and a training, for all other jobs."""
  make_model(folder / "model")
  chains = [chain | {"question": f"{i}, how many?"} for i, chain in enumerate(CHAINS)]
  write_chains(folder / "chains.jsonl", chains)
  write_chains(folder / "drp_chains.jsonl", [teacher_forms.chain(i) for i in range(2)])
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
  run("prune", prune(folder), folder / "pruned", folder)
  run("distill", distill(folder), folder / "student", folder)
  return folder


def run(job: str, config: dict[str, Any], workdir: Path, folder: Path) -> None:
  """Runs a job in this process; `folder` has the inputs."""
  module = importlib.import_module(f"greedy_prune_jax.jobs.{job}")
  further = [[str(folder / "pruned")]] if job == "analyze" else []
  getattr(module, job)(config, str(workdir), *further)


def start(
  job: str, config: dict[str, Any], workdir: Path, folder: Path, **options: Any
) -> "subprocess.Popen[str]":
  """Starts a job as a program; `options` are those of Popen. See `run`."""
  path = workdir.with_suffix(".config.py")
  path.write_text(
    "from ml_collections import config_dict\n\n\n"
    f"def get_config():\n  return config_dict.ConfigDict({config!r})\n"
  )
  command = [sys.executable, "-m", f"greedy_prune_jax.jobs.{job}"]
  command += [f"--config={path}", f"--workdir={workdir}"]
  command += [f"--pruned={folder / 'pruned'}"] if job == "analyze" else []
  env = os.environ | {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu", "OPENAI_API_KEY": "x"}
  options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
  return subprocess.Popen(command, env=env, text=True, **options)


def config_for(job: str, **changes: Any) -> dict[str, Any]:
  """A job's config on one device, with changes."""
  config = importlib.import_module(f"configs.{job}").get_config().to_dict()
  mesh = SEARCH_ON_ONE_DEVICE if job == "prune" else ONE_DEVICE
  return config | ({"mesh": mesh} if "mesh" in config else {}) | changes


def prune(folder: Path) -> dict[str, Any]:
  return config_for(
    "prune",
    chains=str(folder / "chains.jsonl"),
    pruner=str(folder / "model"),
    num_chains=0,
    keep_ratios=(0.7, 0.5),
    show_chains=1,
  )


def distill(folder: Path) -> dict[str, Any]:
  return config_for(
    "distill",
    chains=str(folder / "pruned"),
    student=str(folder / "model"),
    keep_ratios=(0.5,),
    batch_size=2,
    steps=2,
    epochs=0.0,
    save_every=1,
    warmup_steps=1,
    show_progress=False,
    export="last",
  )


def sample(folder: Path) -> dict[str, Any]:
  return config_for(
    "sample",
    questions=f"gsm8k:{folder / 'rows.jsonl'}",
    teacher=str(folder / "model"),
    num_questions=0,
    num_samples=2,
    max_new_tokens=6,
    batch_size=2,
  )


def evaluate(folder: Path) -> dict[str, Any]:
  return config_for(
    "evaluate",
    questions=f"gsm8k:{folder / 'rows.jsonl'}",
    models=(f"m={folder / 'model'}", f"s={folder / 'student'}"),
    num_questions=0,
    num_samples=1,
    max_new_tokens=4,
    batch_size=2,
  )


def evaluate_pruned(folder: Path) -> dict[str, Any]:
  return config_for(
    "evaluate_pruned",
    pruned=(str(folder / "pruned"),),
    model=str(folder / "model"),
    max_new_tokens=4,
  )


def publish(folder: Path) -> dict[str, Any]:
  return config_for("publish", pruned=str(folder / "pruned"), license="mit", source="s")


def analyze(_: Path) -> dict[str, Any]:
  return config_for("analyze", parts=("patterns", "viewer"), regressors=("ridge",))


def drp(folder: Path, url: str) -> dict[str, Any]:
  """The teacher is at `url`, such as that of a `ChatServer`."""
  config = config_for(
    "drp", chains=str(folder / "drp_chains.jsonl"), num_chains=0, teacher="openai"
  )
  endpoint = {"base_url": url, "model": "m", "backoff": 0.0}
  return config | {"endpoint": config["endpoint"] | endpoint}


def study(folder: Path) -> dict[str, Any]:
  questions = {"questions": f"gsm8k:{folder / 'rows.jsonl'}", "num_questions": 0}
  model = str(folder / "model")
  config = config_for(
    "study_cpu",
    chains=str(folder / "chains.jsonl"),
    num_chains=2,
    max_reasoning_tokens=60,
    arms={"greedy": {"objective": "joint"}},
    reference="greedy",
    keep_ratios=(0.5,),
    seeds=(0,),
    students={"tiny": {"student": model}},
    tests={"sums": questions},
    poll_seconds=0.01,
  )
  config["prune"] |= {"pruner": model, "mesh": SEARCH_ON_ONE_DEVICE}
  config["distill"] |= {"steps": 1, "batch_size": 2, "save_every": 1, "mesh": ONE_DEVICE}
  config["evaluate"] |= {"max_new_tokens": 4, "mesh": ONE_DEVICE}
  return config


# Jobs whose config needs the inputs alone.
CONFIGS: dict[str, Callable[[Path], dict[str, Any]]] = {
  "prune": prune,
  "distill": distill,
  "sample": sample,
  "evaluate": evaluate,
  "evaluate_pruned": evaluate_pruned,
  "publish": publish,
  "analyze": analyze,
}


JOBS = (*CONFIGS, "drp", "study")


@contextlib.contextmanager
def config_of(job: str, folder: Path) -> Iterator[dict[str, Any]]:
  """The config of any of `JOBS`; the teacher that drp asks answers as long as this is open."""
  if job in CONFIGS:
    yield CONFIGS[job](folder)
  elif job == "study":
    yield study(folder)
  else:
    pytest.importorskip("openai")
    with serving(teacher_forms.good) as server:
      yield drp(folder, server.url)
