import datetime

import pytest
from tokenizers import processors

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.errors import UserError
from tests.helpers.tokenizers_for_tests import byte_level

# The habits of well-known templates, each in a template of our own.
CHATML = (
  "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
TRIMS = CHATML.replace("m.content", "m.content | trim")
REFUSES_SYSTEM = (
  "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
)
DROPS_SYSTEM = CHATML.replace(
  "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
)
THINKS = CHATML.replace(
  "<|start|>assistant\n{% endif %}",
  "<|start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
  "<think>\n\n</think>\n\n{% endif %}{% endif %}",
).replace(
  "{{ m.content }}",
  "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
)
DATED = "It is {{ strftime_now('%d %b %Y, %A') }}.\n" + CHATML
DATED_IF_IT_CAN = (
  "{% if not date_string is defined %}{% if strftime_now is defined %}"
  "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '?' %}{% endif %}"
  "{% endif %}{{ date_string }}\n" + CHATML
)
MARKS_GENERATION = CHATML.replace(
  "{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"
)


def load(source):
  return load_chat_template("tokenizer", byte_level(source))


@pytest.mark.parametrize("source", [CHATML, TRIMS, MARKS_GENERATION])
def test_prompt_ends_where_the_model_begins_and_the_tail_follows_its_reply(source):
  template = load(source)
  assert template.prompt("Why?", "Be brief.") == (
    "<|start|>system\nBe brief.<|end|>\n<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"
  )
  assert template.prompt("Why?") == "<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"
  assert template.tail == "<|end|>\n"


@pytest.mark.parametrize("source", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_without_a_system_role_the_system_text_goes_before_the_question(source):
  template = load(source)
  assert not template.has_system_role
  assert template.prompt("Why?", "Be brief.") == (
    "<|start|>user\nBe brief.\n\nWhy?<|end|>\n<|start|>assistant\n"
  )


def test_a_model_that_may_think_is_asked_not_to_unless_told():
  assert load(THINKS).prompt("Why?").endswith("<|start|>assistant\n<think>\n\n</think>\n\n")
  thinking = load(THINKS).prompt("Why?", thinking_form="think")
  assert thinking.endswith("<|start|>assistant\n<think>\n")
  assert load(THINKS).tail == "<|end|>\n"


def test_dates_do_not_change_from_day_to_day():
  assert load(DATED).prompt("Why?").startswith("It is 26 Jul 2024, Friday.\n<|start|>user\n")
  assert load(DATED_IF_IT_CAN).prompt("Why?").startswith("26 Jul 2024\n<|start|>user\n")


@pytest.mark.slow
@pytest.mark.parametrize(
  "code", [*"aAwdbBmyYHIpMSfzZjUWcxXGuVhDFTReCgklPrt", "-I", "-j", "-e", "-l", "-U"]
)
def test_every_code_of_a_date_is_that_of_the_fixed_day(code):
  day = datetime.datetime(2024, 7, 26)
  source = "It is {{ strftime_now('%" + code + " of %Y') }}.\n" + CHATML
  assert load(source).prompt("Why?").startswith(f"It is {day.strftime(f'%{code} of %Y')}.\n")


@pytest.mark.parametrize(
  "failing",
  [
    "{{ 1 // 0 }}",
    "{{ 10 ** 400 * 1.5 }}",
    "{{ [1][5].x }}",
    "{{ {}.update(1) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ messages.pop() }}",
  ],
)
def test_a_template_that_fails_in_any_way_is_a_message(failing):
  with pytest.raises(UserError, match="chat_template=tokenizer cannot be used: the chat template"):
    load(failing + CHATML)


def test_leading_newline_of_a_template_survives():
  assert load("\n" + CHATML).prompt("Why?").startswith("\n<|start|>user")


def test_plain_form_has_bos_and_eos():
  tokenizer = byte_level()
  opened = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
  tokenizer.backend_tokenizer.post_processor = opened
  template = load_chat_template("plain", tokenizer)
  assert template.prompt("Why?", "Be brief.") == "<s>Be brief.\n\nQuestion: Why?\nAnswer:\n"
  assert template.tail == "</s>"


def test_plain_form_has_no_bos_where_the_tokenizer_opens_no_text_with_it():
  template = load_chat_template("plain", byte_level())
  assert template.prompt("Why?") == "Question: Why?\nAnswer:\n"
  assert template.tail == "</s>"


def test_plain_form_for_a_tokenizer_without_bos_and_eos():
  tokenizer = byte_level()
  tokenizer.bos_token = tokenizer.eos_token = None
  template = load_chat_template("plain", tokenizer)
  assert template.prompt("Why?") == "Question: Why?\nAnswer:\n"
  assert template.tail == "\n"


def test_a_reply_ends_at_the_end_of_a_text_and_at_a_special_token_of_the_tail():
  assert load(CHATML).stop_ids == [1, 3]
  assert load(CHATML.replace("<|end|>", "")).stop_ids == [1]  # a newline ends no reply
  assert load_chat_template("plain", byte_level()).stop_ids == [1]
  tokenizer = byte_level()
  tokenizer.eos_token = None
  assert load_chat_template("plain", tokenizer).stop_ids == []


def test_template_from_a_file(tmp_path):
  path = tmp_path / "chat.jinja"
  path.write_text(CHATML)
  assert load_chat_template(str(path), byte_level()).tail == "<|end|>\n"


def test_a_tokenizer_without_a_template_names_the_alternatives():
  with pytest.raises(UserError, match=r"no chat template of its own.*chat_template=plain.*Jinja"):
    load_chat_template("tokenizer", byte_level())


@pytest.mark.parametrize(
  ("source", "reason"),
  [
    ("{% for %}", "Expected"),
    ("{{ raise_exception('not today') }}", "not today"),
    ("{{ messages[0].text + 1 }}", "has no attribute 'text'"),
    ("always the same", "one of them is missing"),
    (CHATML.replace("m.content", "'...' if m.role == 'user' else m.content"), "one of them is mi"),
  ],
)
def test_a_template_that_does_not_work_is_refused(tmp_path, source, reason):
  path = tmp_path / "chat.jinja"
  path.write_text(source)
  with pytest.raises(UserError, match=rf"chat_template=.*chat.jinja cannot be used: .*{reason}"):
    load_chat_template(str(path), byte_level())


def test_a_missing_template_file_is_named(tmp_path):
  with pytest.raises(UserError, match=r"chat_template=.*none.jinja cannot be read"):
    load_chat_template(str(tmp_path / "none.jinja"), byte_level())
