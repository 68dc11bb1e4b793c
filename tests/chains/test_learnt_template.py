"""Chat templates of students: asked without a word, they ask as the training did."""

import pytest

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.learnt_template import learnt_template, thinks_by_itself
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.local_thinking import LocalThinking
from tests.helpers import thinking_templates as forms
from tests.helpers.tokenizers_for_tests import byte_level

DATED = "\nIt is {{ strftime_now('%d %b %Y') }}.\n" + forms.QWEN3
SPACED = (
  "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>{% endfor %}"
  "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {
  "QWEN3": forms.QWEN3,
  "QWEN3_5": forms.QWEN3_5,
  "R1": forms.R1,
  "HARMONY": forms.HARMONY,
  "NEMOTRON": forms.NEMOTRON,
  "OLMO_THINK": forms.OLMO_THINK,
  "SMOLLM3": forms.SMOLLM3,
  "CHATML": forms.CHATML,
  "DATED": DATED,
  "a last line break": forms.QWEN3 + "\n",
}
CHAT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "Why?"}]


def load(source):
  return load_chat_template("tokenizer", byte_level(source))


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_student_is_asked_as_it_was_trained(name, learns):
  trained = load(TEMPLATES[name])
  form = (trained.layout.form.name if trained.layout else "think") if learns else None
  if trained.always_thinks and not learns:
    pytest.skip("no such student can be trained")
  expected = trained.prompt("Why?", "Add.", thinking_form=form)
  source = learnt_template(trained, form)
  render = byte_level(source).apply_chat_template
  assert render(CHAT, tokenize=False, add_generation_prompt=True) == expected

  own = load(source)  # our jobs
  assert own.prompt("Why?", "Add.", thinking_form=form) == expected
  assert (own.tail, own.stop_ids) == (trained.tail, trained.stop_ids)
  assert thinks_by_itself(own) == learns
  thinking = LocalThinking.of(own, own.tokenizer, "auto")
  assert (thinking is not None) == learns
  if thinking is not None:
    assert thinking.layout.closing == trained.layout_of(form).closing
  reply = [*CHAT, {"role": "assistant", "content": "So."}]
  before = "{%- set enable_thinking = " + ("true" if learns else "false") + " +%}"
  dated = before + TEMPLATES[name].replace("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024")
  told = byte_level(dated).apply_chat_template(reply, tokenize=False)
  assert render(reply, tokenize=False) == told, "what is no reply's beginning stays"


def test_what_the_user_asks_for_comes_before_what_the_student_learnt():
  for form, asked in ((None, True), ("think", False)):
    render = byte_level(learnt_template(load(forms.QWEN3), form)).apply_chat_template
    plain = byte_level(forms.QWEN3).apply_chat_template
    how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": asked}
    assert render(CHAT, **how) == plain(CHAT, **how)


@pytest.mark.parametrize("first", [None, "think"])
@pytest.mark.parametrize("second", [None, "think"])
def test_a_student_of_a_student_is_asked_as_it_was_trained_last(first, second):
  trained = load(learnt_template(load(DATED), first))
  source = learnt_template(trained, second)
  render = byte_level(source).apply_chat_template
  expected = trained.prompt("Why?", "Add.", thinking_form=second)
  assert expected == load(DATED).prompt("Why?", "Add.", thinking_form=second)
  assert render(CHAT, tokenize=False, add_generation_prompt=True) == expected
  assert thinks_by_itself(load(source)) == (second is not None)


def test_the_space_of_a_replys_first_token_ends_no_prompt():
  trained = load(SPACED)
  assert trained.reply_opening == " "
  source = learnt_template(trained, None)
  assert source == SPACED
  assert load(source).prompt("Why?") == trained.prompt("Why?")


def test_a_model_that_may_think_is_no_student_that_does():
  assert not thinks_by_itself(load(forms.QWEN3_5))
  with pytest.raises(UserError, match="opens every reply with a thinking tag"):
    LocalThinking.of(load(forms.R1), byte_level(forms.R1), "off")
