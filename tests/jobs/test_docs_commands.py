"""Commands of README and docs, run as they stand: what one makes, another one reads.

Every setting of a command counts but those that this machine cannot have: tiny models stand in for
those of the hub, a few rows for question sets, few steps for long trainings, and a server of our
own for an endpoint.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from greedy_prune_jax.jobs.study_tables import study_tables
from tests.helpers import teacher_forms, thinking_templates, tiny_jobs, tiny_runs
from tests.helpers.chat_server import Answer, completion, serving
from tests.helpers.doc_commands import Command, commands_of
from tests.helpers.published_cards import CARDS
from tests.helpers.thinking_models import make_thinking_model

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
COMMANDS = [(page.name, command) for page in PAGES for command in commands_of(page.read_text())]
# Commands that other tests run, by a part of their program or config.
ELSEWHERE = {
  "pytest": ".ci/run",
  "own_ranking": "tests/examples/test_examples.py",
  "own_question_set": "tests/examples/test_examples.py",
  "study_planted": "tests/jobs/test_study_planted.py",
}
# Names of what lies on the hub, or on a server.
_AFAR = re.compile(r"hf:|\b(?:deepseek-ai|meta-llama|Qwen|ORG)/|\bgsm8k\b|\bmath\b|https?:")
# What a tiny model on this machine takes for what a command asks for, by settings or their values.
_VALUES = {
  "gsm_symbolic": "chains.jsonl",
  "CHAINS": "thinking.jsonl",
  "planted": "planted@letters,steps=2,length=10",
  "planted@english,steps=8,length=200": "planted@english,steps=2,length=20",
  "smollm2-135m-instruct": "model",
  "meta-llama/Llama-3.1-8B-Instruct": "model",
  "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "thinking_model",
  "Qwen/Qwen3-1.7B": "thinking_model",
}
_SIZES = {
  "prune": {"num_chains": 5},  # as many as a regression needs
  "distill": {"epochs": 0.0, "steps": 2, "save_every": 1, "batch_size": 2, "warmup_steps": 1},
  "sample": {"num_questions": 2, "max_new_tokens": 8, "num_samples": 1, "max_thinking_tokens": 8},
  "evaluate": {"num_questions": 2, "max_new_tokens": 4},
  "evaluate_pruned": {"max_new_tokens": 4},
  "analyze": {"regressors": ("ridge",)},
}


def _reply(request: dict[str, Any], count: int) -> Answer:
  """A teacher's: to the stages of drp, or to a question."""
  try:
    return teacher_forms.good(request, count)
  except KeyError:
    return completion(f"{teacher_forms.REASONING}{teacher_forms.ANSWER}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The working directory of all commands, with models, chains and questions."""
  folder = tmp_path_factory.mktemp("commands")
  tiny_runs.make_model(
    folder / "model", max_position_embeddings=2048, num_key_value_heads=2, vocab_size=512
  )
  make_thinking_model(folder / "thinking_model", thinking_templates.R1, context=2048)
  reasoning = "3 and 4 are 7. So 7 clips.\n"
  chains = [
    tiny_runs.CHAINS[0] | {"id": str(i), "question": f"{i} clips?", "reasoning": reasoning}
    for i in range(5)
  ]
  tiny_runs.write_chains(folder / "chains.jsonl", chains)
  thought = {"reasoning": "<think>\n3 + 4 = 7. So 7.\n</think>\n\n", "answer": "It is 7."}
  tiny_runs.write_chains(folder / "thinking.jsonl", [tiny_runs.CHAINS[0] | thought])
  rows = [{"question": teacher_forms.chain(i)["question"], "answer": "#### 72"} for i in range(2)]
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  own = {"task": ["3 + 4?"], "reply": ["3 + 4 = 7.\n\nThe answer is 7."], "gold": ["7"]}
  pq.write_table(pa.table(own), folder / "mine.parquet")
  (reply,) = own["reply"]
  vllm = {"prompt": "3 + 4?", "outputs": [{"index": 0, "text": reply}], "finished": True}
  asked = {"messages": [{"role": "user", "content": "3 + 4?"}]}
  batch = {"custom_id": "r", "body": asked, "error": None}
  batch |= {"response": {"status_code": 200, "body": completion(reply).body}}
  for name, row in (("vllm", vllm), ("batch", batch)):
    (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
  return folder


def made_by(command: Command) -> str:
  return command.flags.get("workdir", command.flags.get("out", ""))


def read_by(command: Command) -> set[str]:
  """Folders of other commands that one reads."""
  own = command.config and command.job != "study"  # a study gives its jobs their folders
  settings = command.settings().to_json() if own else ""
  named = re.findall(r"\bruns/\w+", " ".join([settings, *command.flags.values(), *command.paths]))
  return set(named) - {made_by(command)}


def is_dry(command: Command) -> bool:
  return command.changes.get("dry_run") == "True"


def in_order(commands: list[Command]) -> list[Command]:
  """Commands, each behind those whose folders it reads."""
  todo, done = list(commands), []
  while todo:
    made = {made_by(command) for command in done if not is_dry(command)}
    ready = [command for command in todo if read_by(command) <= made]
    assert ready, [(command.line, read_by(command) - made) for command in todo]
    todo = [command for command in todo if command not in ready]
    done += ready
  return done


def elsewhere(command: Command) -> str | None:
  """The test that runs a command, if not this one."""
  return next((test for part, test in ELSEWHERE.items() if part in command.line), None)


def test_a_command_that_needs_more_than_this_machine_says_so():
  for page, command in COMMANDS:
    assert bool(command.needs) == bool(_AFAR.search(command.line)), (page, command.line)


def test_tests_that_run_commands_exist():
  for part, test in ELSEWHERE.items():
    assert any(part in command.line for _, command in COMMANDS), part
    assert part == "pytest" or part in (ROOT / test).read_text()


def changed(value: Any) -> Any:
  """A setting with stand-ins for what lies elsewhere."""
  if isinstance(value, Mapping):
    return {key: changed(item) for key, item in value.items()}
  if isinstance(value, tuple | list):
    return type(value)(changed(item) for item in value)
  return _VALUES.get(value, value) if isinstance(value, str) else value


def settings_here(command: Command, url: str, folder: Path) -> dict[str, Any]:
  """Settings of a command, with what this machine has in place of what it has not."""
  config = changed(command.settings().to_dict())
  if command.job == "study":
    tiny = tiny_jobs.study(folder)
    arms = {"greedy_joint": {"objective": "joint"}} if config["arms"] else {}
    kept = ("chains", "num_chains", "max_reasoning_tokens", "students", "tests", "seeds")
    config |= {key: tiny[key] for key in kept}
    config |= {"arms": arms, "reference": "greedy_joint", "keep_ratios": (0.5,)}
    for job in ("prune", "distill", "evaluate"):
      config[job] |= tiny[job]
    config["drp"]["endpoint"] |= {"base_url": url, "model": "m"}
  else:
    config |= _SIZES.get(command.job, {})
    if "mesh" in config and "mesh.data" not in command.changes:
      config["mesh"] = config["mesh"] | tiny_jobs.ONE_DEVICE
    if "questions" in config:
      config["questions"] = "gsm8k:rows.jsonl"
    if config.get("teacher") == "openai" or (command.job == "sample" and not command.needs):
      # No tiny model writes chains that are right; a server does.
      config["teacher"] = "openai"
      config["endpoint"] |= {"base_url": url, "model": "m"}
  return config


def run(command: Command, url: str, folder: Path) -> None:
  """Runs a command in this process, in the working directory."""
  if command.job == "study_tables":
    study_tables(
      command.flags["answers"].split(","), command.flags["reference"], command.flags["workdir"]
    )
    return
  if not command.config:  # a script of benchmarks
    done = [sys.executable, "-m", command.program, *command.line.split()[3:]]
    subprocess.run(done, check=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return
  job = getattr(importlib.import_module(command.program), command.job)
  config = settings_here(command, url, folder)
  further = [command.flags["pruned"].split(",")] if command.job == "analyze" else []
  job(config, command.flags["workdir"], *further)


@pytest.mark.slow
def test_every_command_runs(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setenv("OPENAI_API_KEY", "x")
  rows = [CARDS["open-r1/OpenR1-Math-220k"][1]] * 2
  monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: rows)
  distinct = {command.line: command for _, command in COMMANDS if elsewhere(command) is None}
  with serving(_reply) as server:
    for command in in_order(list(distinct.values())):
      run(command, server.url, folder)
      made = folder / made_by(command)
      assert is_dry(command) or any(made.iterdir()), command.line
  assert len(distinct) > 20
