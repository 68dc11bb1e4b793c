"""Judgements of parts of chains, read as rows of the published structures give them."""

import dataclasses
import itertools

import pytest

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.judgements import MEASURE, importances, ratings, right_steps
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.thinking_chains import fit_chain
from greedy_prune_jax.errors import UserError
from tests.chains.test_reading import write_jsonl
from tests.helpers import thinking_templates
from tests.helpers.format_examples import EXAMPLES
from tests.helpers.real_chains import DATA
from tests.helpers.tokenizers_for_tests import byte_level

REAL = DATA / "thinking_chains"

REASONING = "First, 2 + 2.  So 4.\n\nWait: 4. Done."


def chain(reasoning=REASONING, answer="\n\\boxed{4}", **extra):
  return Chain(id="c", question="2 + 2?", reasoning=reasoning, answer=answer, extra=extra)


def read(tmp_path, row):
  (one,) = read_chains(write_jsonl(tmp_path / "rows.jsonl", row))
  return one


def texts(one, parts):
  return [one.reasoning[start:end] for start, end, _ in parts]


def values(parts):
  return [value for *_, value in parts]


def test_sentences_are_found_whatever_white_space_they_are_cut_with():
  chunks = ["First, 2 + 2.", "So\n  4.", "Wait: 4.", "Done."]
  one = chain(chunks=[{"chunk": text, MEASURE: i / 2} for i, text in enumerate(chunks)])
  assert texts(one, importances(one)) == ["First, 2 + 2.", "So 4.", "Wait: 4.", "Done."]
  assert values(importances(one)) == [0, 0.5, 1, 1.5]


def test_a_sentence_that_comes_twice_is_found_behind_the_one_before():
  one = chain(chunks=[{"chunk": text, MEASURE: 0} for text in ("4.", "4.", "Done.")])
  starts = [start for start, *_ in importances(one)]
  assert starts == [REASONING.index("4."), REASONING.rindex("4."), REASONING.index("Done")]


def test_spans_of_ones_own_and_chains_without_any():
  assert importances(chain(importances=[[0, 5, 1], [6, 7, -0.5]])) == [(0, 5, 1), (6, 7, -0.5)]
  for one in (chain(), chain(chunks=[{"chunk": "Done."}])):
    assert importances(one) is ratings(one) is right_steps(one) is None


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    ({"importances": [[0, 99, 1.0]]}, r"item 0 .* is \[0, 99, 1.0\]; .* of the 36 characters"),
    ({"importances": [[5, 5, 1.0]]}, "a span of the"),
    ({"importances": [[0, 5]]}, r"expected \[start, end, importance\]"),
    ({"importances": {"a": 1}}, "expected a list"),
    ({"importances": [[0, 5, float("nan")]]}, "is nan; expected a number"),
    ({"importances": [[0, 5, True]]}, "is True; expected a number"),
    ({"chunks": [{"chunk": "No.", MEASURE: 0}]}, 'item 0 of "chunks" is not in the reasoning'),
    ({"chunks": [{MEASURE: 0}]}, 'item 0 of "chunks" is not in the reasoning'),
    ({"chunks": [{"chunk": "Done.", MEASURE: "x"}]}, f"{MEASURE} is 'x'; expected a number"),
  ],
)
def test_importances_of_another_form(extra, message):
  with pytest.raises(UserError, match=f"chain c: .*{message}"):
    importances(chain(**extra))


def test_ratings_of_prm800k(tmp_path):
  steps = ["Six sevens.", "They are  many.", "Hm.", "So 42.\n\n# Answer\n\n42"]
  rated = zip(steps, (1, -1, None, 0), strict=True)
  labels = [{"completions": [{"text": text, "rating": rating}]} for text, rating in rated]
  one = read(tmp_path, EXAMPLES["prm800k"] | {"label": {"steps": labels}})
  assert texts(one, ratings(one)) == ["Six sevens.", "They are  many.", "So 42."]
  assert values(ratings(one)) == [1, -1, 0]
  assert ratings(one)[-1][1] == len(one.reasoning), "without the answer in its step"
  assert right_steps(one) is importances(one) is None


@pytest.mark.parametrize("form", ["prm800k", "processbench"])
def test_steps_are_found_where_the_reasoning_is_taken_for_thinking(tmp_path, form):
  plain = read(tmp_path, EXAMPLES[form])
  template = load_chat_template("tokenizer", byte_level(thinking_templates.R1))
  thinking = fit_chain(plain, template, "on")
  assert "</think>" in thinking.answer
  judge = ratings if form == "prm800k" else right_steps
  assert judge(thinking) == judge(plain)


def test_steps_of_a_whole_solution_are_rated_up_to_its_first_error(tmp_path):
  row = EXAMPLES["prm800k"]
  whole = {"pre_generated_steps": ["Six sevens.", "So 42.", "Or 43.", "It is \\boxed{43}."]}
  one = read(tmp_path, row | {"question": row["question"] | whole})
  assert texts(one, ratings(one)) == ["Six sevens.", "So 42."]


@pytest.mark.parametrize(
  ("wrong", "found"),
  [(-1, [1, 1, 1]), (0, [0, 1, 1]), (1, [1, 0, 1]), (2, [1, 1, 0]), (3, [1, 1, 1])],
)
def test_first_errors_of_processbench(tmp_path, wrong, found):
  steps = ["Six.", "Six sevens.", "Many.", "\\boxed{43}"]
  one = read(tmp_path, EXAMPLES["processbench"] | {"steps": steps, "label": wrong})
  assert texts(one, right_steps(one)) == steps[:3], "the last is the answer"
  assert values(right_steps(one)) == found
  assert ratings(one) is None


@pytest.mark.parametrize(
  ("kind", "extra", "message"),
  [
    (ratings, {"steps": ["Done."], "step_labels": [1, 0]}, 'has 2 items and "steps" 1'),
    (ratings, {"steps": ["No."], "step_labels": [1]}, 'item 0 of "steps" is not in the chain'),
    (ratings, {"steps": ["Done."], "step_labels": ["x"]}, "is 'x'; expected a number"),
    (ratings, {"steps": "Done.", "step_labels": [1]}, "expected a list"),
    (right_steps, {"steps": ["Done."], "first_wrong_step": 1}, "is 1; expected -1 to 0"),
    (right_steps, {"steps": ["Done."], "first_wrong_step": None}, "is None; expected -1 to 0"),
  ],
)
def test_labels_of_steps_of_another_form(kind, extra, message):
  with pytest.raises(UserError, match=f"chain c: .*{message}"):
    kind(chain(**extra))


@pytest.mark.parametrize("since", ["pruned_from", "drp"])
def test_a_chain_that_was_rewritten_is_not_judged_by_what_it_was(since):
  one = chain(importances=[[0, 5, 1.0]], steps=["Gone."], step_labels=[1], first_wrong_step=0)
  with pytest.raises(UserError):
    ratings(one)
  one = dataclasses.replace(one, extra=one.extra | {since: {}})
  assert importances(one) is ratings(one) is right_steps(one) is None


@pytest.mark.skipif(not REAL.exists(), reason=f"needs {REAL}")
def test_real_importances_are_read():
  chains = list(read_chains(str(REAL)))
  assert len(chains) == 32
  for one in chains:
    parts = importances(one)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(parts))
    covered = sum(end - start for start, end, _ in parts)
    assert covered > 0.95 * len("".join(one.reasoning.split()))
