"""Defaults that the configs of all jobs share: a file is taken whole, a set without end is not."""

import json

import pytest

from configs import analyze, distill, drp, evaluate, evaluate_pruned, prune, sample
from greedy_prune_jax.chains.question_sets import NUM_GENERATED, load_questions, rows_to_read
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.distill.examples import read_texts
from greedy_prune_jax.models.pretrained import load_tokenizer
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.pruning.tasks import read_tasks
from greedy_prune_jax.teachers.questions import load_prompt_set
from tests.helpers.tiny_runs import CHAINS, make_model, write_chains

NUMBERS = {
  prune: "num_chains",
  drp: "num_chains",
  distill: "num_chains",
  analyze: "num_chains",
  evaluate_pruned: "num_chains",
  sample: "num_questions",
  evaluate: "num_questions",
}
EIGHT = [chain | {"id": f"{i}"} for i in range(8) for chain in CHAINS[:1]]


@pytest.mark.parametrize("config", NUMBERS, ids=lambda config: config.__name__)
def test_every_job_takes_all_that_there_is(config):
  assert config.get_config()[NUMBERS[config]] == 0


def prune_settings(**changes):
  return PruneSettings.from_config(prune.get_config().to_dict() | changes)


def test_a_file_of_chains_is_taken_whole(tmp_path):
  path = str(write_chains(tmp_path / "chains.jsonl", EIGHT))
  make_model(tmp_path / "model")
  tokenizer = load_tokenizer(str(tmp_path / "model"))
  tasks = read_tasks(prune_settings(chains=path), tokenizer, 4096, {}, None)
  assert [task.chain.id for task in tasks] == [chain["id"] for chain in EIGHT]
  assert len(list(read_chains(path))) == len(read_texts(path, (1.0,))) == 8


def test_a_file_of_questions_is_taken_whole(tmp_path):
  rows = [{"question": f"What is {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(9)]
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  asked = load_prompt_set(f"gsm8k:{path}", split="test", num_questions=0, num_shots=1, seed=0)
  assert len(asked.questions) == 8


@pytest.mark.parametrize("source", ["gsm_symbolic", "gsm_symbolic@3,14"])
def test_of_a_set_without_end_all_jobs_take_the_same_few(source, tmp_path):
  pytest.importorskip("reasoning_gym")
  make_model(tmp_path / "model", max_position_embeddings=4096)
  tokenizer = load_tokenizer(str(tmp_path / "model"))
  for limit in (0, 10_000):
    settings = prune_settings(chains=source, max_reasoning_tokens=limit)
    assert len(list(read_tasks(settings, tokenizer, 4096, {}, None))) == NUM_GENERATED
  assert len(list(read_chains(source))) == len(load_questions(source)) == NUM_GENERATED
  assert len(read_texts(source, (1.0,))) == NUM_GENERATED
  few = {"split": "test", "num_questions": 0, "seed": 0}
  for num_shots in (0, 3):
    assert len(load_prompt_set(source, num_shots=num_shots, **few).questions) == NUM_GENERATED


def test_a_number_that_is_asked_for_is_kept():
  assert [rows_to_read("gsm_symbolic", n, 2) for n in (0, 1, 7)] == [NUM_GENERATED + 2, 3, 9]
  assert [rows_to_read("gsm8k", n, 2) for n in (0, 1, 7)] == [0, 3, 9]
