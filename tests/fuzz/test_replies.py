"""Replies of models: of teachers, annotators and students."""

import json

import pytest

from greedy_prune_jax.analysis.model_annotator import parse_reply
from greedy_prune_jax.chains import answers
from greedy_prune_jax.drp.asking import read_reply
from greedy_prune_jax.drp.checks import RefusedReplyError
from greedy_prune_jax.drp.items import Item
from greedy_prune_jax.drp.stages import DECOMPOSE, EDIT, WRITE
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers import teacher_forms as forms
from tests.helpers.attacks import cases_of, is_taken, mutated, mutated_text
from tests.helpers.made_records import drp_records

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", [DECOMPOSE, EDIT, WRITE], ids=lambda stage: stage.name)
def test_replies_of_drp(stage):
  from greedy_prune_jax.chains.chain import Chain

  item = Item.of(Chain.from_record(forms.chain(1)))
  for output, before in (("decomposed", EDIT), ("edited", WRITE)):
    if stage is before:
      item = item.with_results(drp_records()[output])
  good = forms.GOOD[stage.name]

  def read(text):
    complaint = ""
    try:
      read_reply(stage, item, Reply(id="a", text=text, finish_reason="stop"))
    except RefusedReplyError as error:
      complaint = error.complaint
    assert len(complaint) < 5000

  read(good)
  for _, rng in cases_of(stage.name, 250):
    text = json.dumps(mutated(json.loads(good), rng), ensure_ascii=False)
    if rng.random() < 0.5:
      text = mutated_text(text, rng)
    if rng.random() < 0.1:
      text = rng.choice((good[:20] * 900, "<think>" + good, "{" * 20000, good * 50))
    assert is_taken(lambda text=text: read(text)), text


def test_replies_of_the_annotator():
  good = json.dumps({"labels": [{"position": i, "category": "FUNCTION"} for i in range(3)]})
  assert is_taken(lambda: parse_reply(good, 0, 3))
  for _, rng in cases_of("annotator", 300):
    text = json.dumps(mutated(json.loads(good), rng))
    is_taken(lambda text=text, rng=rng: parse_reply(mutated_text(text, rng), 0, 3))


@pytest.mark.parametrize("form", [answers.NUMBER, answers.BOXED, answers.LETTER])
def test_replies_with_answers(form):
  good = "So 6 * 7 = 42.\n" + form.write("B" if form is answers.LETTER else "42")
  pieces = [
    r"\boxed{",
    "####",
    "final ",
    "answer: ",
    "$",
    "{",
    '{"answer":',
    "1/0",
    "1e999",
    "9" * 99,
  ]
  pieces += ["\\frac{", "^" * 99, "(" * 999, "sqrt" * 30, "NaN", "10^10^10", "x=" * 50, "\u0663"]
  for _, rng in cases_of("answers", 200):
    text = mutated_text(good, rng) + rng.choice(pieces) * rng.choice((1, 3, 2000))
    text += mutated_text(form.write(rng.choice(pieces)), rng)

    def read(text=text):
      split = answers.split_response(text, form)
      if split is not None:
        form.is_right(split.value, "B" if form is answers.LETTER else "42")
        form.is_right("42", split.value)
        form.is_target(split.value)

    assert is_taken(read), text[:200]
