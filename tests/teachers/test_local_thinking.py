"""A model here that thinks before it replies: its own end, a cut, and a forced closing tag."""

import json

import pytest
import torch

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.teachers.local import LocalTeacher
from greedy_prune_jax.teachers.settings import WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt, Reply
from tests.helpers import thinking_templates as forms
from tests.helpers.thinking_models import make_thinking_model
from tests.helpers.tiny_runs import make_model
from tests.helpers.tokenizers_for_tests import byte_level

QUESTION = "How many clips?"
ENDS_AFTER, CONTEXT = 6, 192


def prompt_of(source):
  template = load_chat_template("tokenizer", byte_level(source))
  return template.prompt(QUESTION, thinking_form="think")


@pytest.fixture(scope="module", params=["QWEN3", "R1"])
def made(request, tmp_path_factory):
  source = getattr(forms, request.param)
  folder = tmp_path_factory.mktemp(request.param)
  _, tokenizer = make_thinking_model(
    folder, source, prompt=prompt_of(source), ends_after=ENDS_AFTER
  )
  return folder, tokenizer


def ask(folder, **writing):
  settings = WritingSettings(**({"max_new_tokens": 5, "thinking": "on"} | writing))
  (reply,) = LocalTeacher.load(str(folder), settings).write([ChatPrompt(id="a", question=QUESTION)])
  return reply


def continued(tokenizer, folder, text, tokens):
  """The likeliest tokens behind a text by transformers."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
  out = model.generate(
    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
  )
  return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.slow
def test_a_thinking_that_ends_is_followed_by_the_reply(made):
  folder, tokenizer = made
  reply = ask(folder, max_thinking_tokens=50)
  assert (reply.thinking_form, reply.thinking_end) == ("think", "own")
  assert reply.num_thinking_tokens == ENDS_AFTER
  assert reply.num_tokens <= ENDS_AFTER + 5
  assert "think>" not in reply.thinking + reply.text
  source = tokenizer.chat_template
  thought = continued(tokenizer, folder, prompt_of(source), ENDS_AFTER)
  assert thought.rstrip("\ufffd").strip() == reply.thinking
  before = f"{prompt_of(source)}{reply.thinking}\n</think>\n\n"
  assert continued(tokenizer, folder, before, 5) == reply.text
  assert Reply.from_record(json.loads(json.dumps(reply.to_record()))) == reply


def test_a_thinking_without_an_end_is_cut_off_or_forced_to_an_answer(made):
  folder, tokenizer = made
  cut = ask(folder, max_thinking_tokens=4)
  assert (cut.thinking_end, cut.finish_reason, cut.text) == ("never", "length", "")
  assert cut.num_tokens == cut.num_thinking_tokens == 4
  forced = ask(folder, max_thinking_tokens=4, force_answer=True)
  assert (forced.thinking_end, forced.thinking) == ("forced", cut.thinking)
  before = f"{prompt_of(tokenizer.chat_template)}{cut.thinking}\n</think>\n\n"
  assert continued(tokenizer, folder, before, 5) == forced.text


@pytest.mark.slow
def test_a_reply_is_not_drawn_as_the_closing_tag_was(tmp_path):
  model, _ = make_thinking_model(tmp_path, forms.R1)
  with torch.no_grad():
    model.model.norm.weight.zero_()  # every token is as likely as any other
  model.save_pretrained(tmp_path)
  settings = WritingSettings(max_new_tokens=1, max_thinking_tokens=50, temperature=1.0)
  prompts = [ChatPrompt(id=str(i), question=QUESTION, seed=i) for i in range(48)]
  replies = list(LocalTeacher.load(str(tmp_path), settings).write(prompts))
  ended = [reply for reply in replies if reply.thinking_end == "own"]
  assert len(ended) > 3
  assert not any(reply.text == "</think>" for reply in ended)


def test_a_closing_tag_of_several_tokens_ends_a_thinking_too(tmp_path, made, monkeypatch):
  folder, _ = made
  whole = ask(folder, max_thinking_tokens=50)
  # The same model, whose tokenizer knows the tags by their letters alone.
  make_model(tmp_path, forms.QWEN3, max_position_embeddings=512, vocab_size=600)
  settings = WritingSettings(max_new_tokens=5, thinking="on", max_thinking_tokens=50)
  teacher = LocalTeacher.load(str(tmp_path), settings)
  assert teacher._thinking.end == "</think>"
  decode = teacher._decode
  monkeypatch.setattr(teacher, "_decode", lambda ids: decode(ids) + "</think>" * (len(ids) > 8))
  (reply,) = teacher.write([ChatPrompt(id="a", question=QUESTION)])
  assert (reply.thinking_end, reply.num_thinking_tokens) == ("own", 9)
  assert whole.thinking_end == "own"


@pytest.mark.parametrize(("asked", "most"), [(5, 5), (10_000, None)])
def test_a_thinking_leaves_room_for_the_reply_in_the_context(made, asked, most):
  folder, tokenizer = made
  settings = WritingSettings(max_new_tokens=60, thinking="on", max_thinking_tokens=asked)
  teacher = LocalTeacher.load(str(folder), settings)
  request = teacher._first_request(ChatPrompt(id="a", question=QUESTION))
  closing = len(tokenizer("</think>", add_special_tokens=False)["input_ids"])
  left = CONTEXT - len(request.prompt_ids) - closing - 60
  assert request.max_new_tokens == (left if most is None else most)


@pytest.mark.slow
def test_a_reply_ends_with_the_context(made):
  folder, _ = made
  full = ask(folder, max_thinking_tokens=3, max_new_tokens=10_000, force_answer=True)
  assert (full.thinking_end, full.finish_reason) == ("forced", "length")
  assert 60 < full.num_tokens < CONTEXT


@pytest.mark.parametrize(
  ("source", "mode", "message"),
  [
    (forms.CHATML, "on", "thinking=on, but this chat template shows no form of thinking"),
    (forms.R1, "off", "thinking=off, but this chat template opens every reply with a thinking tag"),
  ],
)
def test_a_template_that_cannot_is_named(tmp_path, source, mode, message):
  make_model(tmp_path, source)
  with pytest.raises(UserError, match=message):
    ask(tmp_path, thinking=mode)


def test_auto_thinks_where_the_template_must(tmp_path):
  for name, thinks in (("QWEN3", False), ("R1", True), ("CHATML", False)):
    make_model(tmp_path / name, getattr(forms, name))
    settings = WritingSettings(max_new_tokens=5)
    teacher = LocalTeacher.load(str(tmp_path / name), settings)
    assert (teacher._thinking is not None) == thinks
