import json

import numpy as np
import pytest

from greedy_prune_jax.analysis.agreement import compare_labels
from greedy_prune_jax.analysis.label_files import labels_of_chains, labels_to_record, read_labels
from greedy_prune_jax.analysis.model_annotator import ModelAnnotator, labelling_prompt, parse_reply
from greedy_prune_jax.chains.categories import Category, token_spans
from greedy_prune_jax.chains.category_rules import RuleAnnotator, offline_annotator
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers.jsonl_files import new_writer
from tests.helpers.planted import pruned_chain

ALL = list(Category)


def kappa(first, second):
  """Cohen's kappa, from what it is."""
  n = len(first)
  agree = sum(a == b for a, b in zip(first, second, strict=True)) / n
  chance = sum(first.count(x) * second.count(x) for x in set(first)) / n**2
  return (agree - chance) / (1 - chance)


def test_kappas_are_agreement_beyond_chance():
  rng = np.random.default_rng(0)
  first = [tuple(ALL[i] for i in rng.integers(5, size=50)) for _ in range(4)]
  second = [
    tuple(a if rng.random() < 0.6 else ALL[rng.integers(5)] for a in chain) for chain in first
  ]
  agreement = compare_labels(first, second)
  flat_first, flat_second = sum(first, ()), sum(second, ())
  np.testing.assert_allclose(agreement.kappa, kappa(flat_first, flat_second))
  for category in ALL[:5]:
    expected = kappa([a == category for a in flat_first], [b == category for b in flat_second])
    np.testing.assert_allclose(agreement.kappa_of[category], expected)
  assert agreement.kappa_of[ALL[5]] is None  # neither used it
  assert agreement.confusion[0].sum() == flat_first.count(ALL[0])
  assert agreement.confusion[:, 1].sum() == flat_second.count(ALL[1])
  assert compare_labels([(ALL[0],) * 3], [(ALL[0],) * 3]).kappa is None  # both gave one label only


def test_unlabelled_tokens_are_counted_and_left_out():
  agreement = compare_labels([(ALL[0], None, ALL[1])], [(ALL[0], ALL[1], ALL[1])])
  assert (agreement.num_tokens, agreement.num_unlabelled, agreement.accuracy) == (2, 1, 1.0)
  with pytest.raises(ValueError, match="none of the 1 tokens"):
    compare_labels([(None,)], [(ALL[0],)])
  with pytest.raises(ValueError, match="same tokens"):
    compare_labels([(ALL[0],)], [(ALL[0], ALL[0])])


def test_label_files_hold_the_published_viewers_form(tmp_path):
  chain = pruned_chain(["a", " b", "\u2028<c>"], [2, 0])
  path = tmp_path / "labels.jsonl"
  with new_writer(path) as writer:
    writer.write(labels_to_record(chain, (ALL[0], None, ALL[5])))
  record = json.loads(path.read_text())
  assert record["reason_tokens_json"][2] == {
    "token_position": 2,
    "token_text": "\u2028<c>",
    "deleted_step": 1,
    "category": "FUNCTION",
  }
  assert [token["deleted_step"] for token in record["reason_tokens_json"]] == [2, None, 1]
  assert labels_of_chains([chain], read_labels(path)) == [(ALL[0], None, ALL[5])]
  with pytest.raises(UserError, match="no labels for chain c/1"):
    labels_of_chains([pruned_chain(["a"], [], "c/1")], read_labels(path))
  with pytest.raises(UserError, match="one tokenizer only"):
    labels_of_chains([pruned_chain(["a", " b\u2028<c>"], [])], read_labels(path))


@pytest.mark.parametrize(
  ("token", "message"),
  [
    ({"token_position": 1, "token_text": "a", "category": None}, "must be 0 to 0"),
    ({"token_position": 0, "token_text": "a", "category": "VERB"}, "unknown category 'VERB'"),
    ({"token_position": 0, "category": None}, 'lacks the key "token_text"'),
  ],
)
def test_a_bad_label_file_names_the_line(tmp_path, token, message):
  path = tmp_path / "labels.jsonl"
  path.write_text(json.dumps({"id": "c", "reason_tokens_json": [token]}) + "\n")
  with pytest.raises(UserError, match=f"labels.jsonl, line 1: .*{message}"):
    read_labels(path)


def test_tokens_of_a_unit_have_one_step():
  chain = pruned_chain(["a", " b", "c"], [1, 2], unit_sizes=(1, 2))
  record = labels_to_record(chain, (None,) * 3)
  assert [token["deleted_step"] for token in record["reason_tokens_json"]] == [None, 1, 1]


def test_annotators_without_a_model_are_had_by_name():
  assert isinstance(offline_annotator("rules"), RuleAnnotator)
  for name in ("spacy", "model"):
    with pytest.raises(UserError, match=f"annotator='{name}'; expected rules or, in the job"):
      offline_annotator(name)


def test_token_spans_follow_one_another():
  assert token_spans(["ab", "", " c"]) == [(0, 2), (2, 2), (2, 4)]
  assert token_spans([]) == []


class ScriptedTeacher:
  """Answers from a list of replies, in order, and keeps the prompts."""

  def __init__(self, replies, served=None):
    self.replies, self.served, self.prompts = list(replies), served, []

  def write(self, prompts):
    for prompt in prompts:
      assert prompt.schema["required"] == ["labels"]
      self.prompts.append(prompt.question)
      text = self.replies.pop(0)
      if text is None:
        yield Reply.failed(prompt, "gone")
      else:
        yield Reply(id=prompt.id, text=text, finish_reason="stop", served=self.served)


def reply(*pairs):
  return json.dumps({"labels": [{"position": p, "category": c} for p, c in pairs]})


def test_a_model_is_asked_again_and_then_its_tokens_are_counted(tmp_path):
  teacher = ScriptedTeacher(
    [
      # First round: chain 0 positions 0 and 1 (in any order), its position 2, chain 1.
      reply((1, "FUNCTION"), (0, "SYMBOLIC_MATH")),
      "not JSON",
      "{}",
      # Second round, of what failed.
      reply((2, "META_DISCOURSE")),
      reply((0, "FUNCTION"), (0, "FUNCTION")),
      # Third round.
      "[]",
    ]
  )
  path = tmp_path / "replies.jsonl"
  annotator = ModelAnnotator(
    lambda: teacher, tokens_per_prompt=2, max_attempts=3, replies_path=path
  )
  labels = annotator.annotate([["7", " is", " so"], ["x"]])
  assert labels == [
    (Category.SYMBOLIC_MATH, Category.FUNCTION, Category.META_DISCOURSE),
    (None,),
  ]
  assert (annotator.num_unlabelled, annotator.num_retries) == (1, 3)
  stored = [json.loads(line) for line in path.read_text().splitlines()]
  assert [entry["prompt"] for entry in stored] == teacher.prompts
  assert ["could not be used" in prompt for prompt in teacher.prompts] == [False] * 3 + [True] * 3


def test_another_model_at_the_endpoint_is_stored_and_warned_of(tmp_path, caplog):
  path = tmp_path / "replies.jsonl"
  for served in ("alias", "other"):
    teacher = ScriptedTeacher([reply((0, "FUNCTION"))] * 2, served=served)
    annotator = ModelAnnotator(lambda teacher=teacher: teacher, replies_path=path)
    annotator.annotate([["a"], ["b"]])
  assert caplog.text.count("says that other wrote the reply to ") == 1
  stored = [json.loads(line)["served"] for line in path.read_text().splitlines()]
  assert stored == ["alias"] * 2 + ["other"] * 2


def test_a_chain_without_a_reply_may_be_asked_about_again():
  teacher = ScriptedTeacher([reply((0, "FUNCTION")), None, None, None])
  annotator = ModelAnnotator(lambda: teacher)
  assert annotator.annotate([["a"], ["b"]]) == [(Category.FUNCTION,), None]
  assert not any("could not be used" in prompt for prompt in teacher.prompts)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[1]",
    reply((0, "FUNCTION")),
    reply((0, "FUNCTION"), (1, "FUNCTION"), (1, "FUNCTION")),
    reply((0, "FUNCTION"), (1, "FUNCTION"), (2, "FUNCTION")),
    reply((0, "FUNCTION"), (1, "VERB")),
    reply((0, "FUNCTION"), ([1], "FUNCTION")),
  ],
)
def test_a_reply_answers_for_each_position_exactly_once(text):
  with pytest.raises(UserError):
    parse_reply(text, 0, 2)


def test_the_prompt_shows_the_text_and_only_the_positions_asked_about():
  prompt = labelling_prompt(["one", " two", " three"], 1, 3)
  assert "one two three" in prompt
  assert '"position": 1, "token": " two"' in prompt
  assert '"position": 0' not in prompt
