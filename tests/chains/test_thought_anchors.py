"""Folders of the structure of Thought Anchors, made here."""

import itertools
import json
from pathlib import Path

import pytest

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.thought_anchors import IMPORTANCES, MEASURE, read_problems
from greedy_prune_jax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "thinking_chains"

SENTENCES = ["First, 2 + 2.", "So\n  4.", "Wait: 4.", "Done."]
THINKING = "First, 2 + 2.  So 4.\n\nWait: 4. Done."


def write_problem(folder, name="a/problem_1", **changes):
  place = folder / name
  place.mkdir(parents=True)
  files = {
    "problem.json": {"problem": "2 + 2?", "gt_answer": "4"},
    "base_solution.json": {
      "prompt": "Solve this. Problem: 2 + 2? Solution: \n<think>\n",
      "solution": f"\n{THINKING}\n</think>\n\nIt is \\boxed{{4}}.",
    },
    "chunks_labeled.json": [
      {"chunk": text, "chunk_idx": i, MEASURE: i / 2, "other": -1}
      for i, text in enumerate(SENTENCES)
    ],
  } | changes
  for file, content in files.items():
    (place / file).write_text(json.dumps(content))
  return place


def test_a_problem_becomes_a_chain_with_importances(tmp_path):
  write_problem(tmp_path)
  (chain,) = read_problems(tmp_path)
  assert (chain.id, chain.question, chain.target) == ("a/problem_1", "2 + 2?", "4")
  assert chain.reasoning == THINKING
  assert chain.answer == "\n</think>\n\nIt is \\boxed{4}."
  spans = chain.extra[IMPORTANCES]
  assert [THINKING[start:end] for start, end, _ in spans] == [
    *("First, 2 + 2.", "So 4.", "Wait: 4.", "Done.")
  ]
  assert [value for *_, value in spans] == [0, 0.5, 1, 1.5]
  again = Chain.from_record(json.loads(json.dumps(chain.to_record())))
  assert again.thinking_form == "think"
  assert again.reasoning == THINKING


def test_a_sentence_that_comes_twice_is_found_behind_the_one_before(tmp_path):
  chunks = [{"chunk": text, MEASURE: 0.0} for text in ("4.", "4.", "Done.")]
  write_problem(tmp_path, **{"chunks_labeled.json": chunks})
  (chain,) = read_problems(tmp_path)
  starts = [start for start, *_ in chain.extra[IMPORTANCES]]
  assert starts == [THINKING.index("4."), THINKING.rindex("4."), THINKING.index("Done")]


def test_another_importance_and_the_order_of_problems(tmp_path):
  for name in ("b/problem_2", "a/problem_9", "b/problem_1"):
    write_problem(tmp_path, name)
  chains = list(read_problems(tmp_path, "other"))
  assert [chain.id for chain in chains] == ["a/problem_9", "b/problem_1", "b/problem_2"]
  assert {value for *_, value in chains[0].extra[IMPORTANCES]} == {-1}


@pytest.mark.parametrize(
  ("file", "content", "message"),
  [
    ("chunks_labeled.json", [{"chunk": "No.", MEASURE: 0}], "json: sentence 0 is not in the think"),
    ("chunks_labeled.json", [{"chunk": "Done."}], f'json: lacks the key "{MEASURE}"'),
    ("chunks_labeled.json", {}, "json: expected a list"),
    ("chunks_labeled.json", [[]], "json: sentence 0 is no object"),
    ("base_solution.json", {"prompt": "2?", "solution": "a</think>b"}, r"solution\.json: expected"),
    ("base_solution.json", {"prompt": "Problem: 2 Solution:", "solution": "a"}, "</think> in "),
  ],
)
def test_files_of_another_form(tmp_path, file, content, message):
  write_problem(tmp_path, **{file: content})
  with pytest.raises(UserError, match=message):
    list(read_problems(tmp_path))


def test_a_folder_without_problems(tmp_path):
  with pytest.raises(UserError, match=r"holds no chunks_labeled\.json"):
    read_problems(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}")
def test_real_problems_are_read():
  chains = list(read_problems(REAL))
  assert len(chains) == 32
  for chain in chains:
    spans = chain.extra[IMPORTANCES]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    covered = sum(end - start for start, end, _ in spans)
    assert covered > 0.95 * len("".join(chain.reasoning.split()))
