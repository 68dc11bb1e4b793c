"""Chat templates that loop, allocate, reach out, or say no conversation."""

import contextlib

import pytest

from greedy_prune_jax.chains.chat_template import ChatTemplate
from greedy_prune_jax.errors import UserError
from tests.helpers import thinking_templates
from tests.helpers.attacks import cases_of, is_taken, mutated_text, refusal
from tests.helpers.tiny_runs import TEMPLATE
from tests.helpers.tokenizers_for_tests import byte_level

pytestmark = pytest.mark.slow


HOSTILE_TEMPLATES = (
  "{% for i in range(10**12) %}x{% endfor %}",
  "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
  "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
  "{{ 'x' * 10**10 }}",
  "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
  "{{ ns.s | length }}",
  "{% set ns = namespace(s='x' * 100) %}{% for i in range(60) %}"
  "{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}",
  "{{ '%999999999999d' % 1 }}",
  "{{ '{:>9999999999}'.format(1) }}",
  "{{ 'x'.ljust(10**11) }}",
  "{{ 'x' | center(10**11) }}",
  "{{ 'x' | indent(10**11) }}",
  "{{ 9 ** 9 ** 9 }}",
  "{{ 10 ** 10 ** 8 }}",
  "{{ (1 << 10**12) }}",
  "{{ [0] * 10**11 }}",
  "{{ range(10**15) | list }}",
  "{{ range(10**15) | sum }}",
  "{{ ['a'] * 99999999 | join }}",
  "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
  "{% include 'x' %}",
  "{% import '/etc/passwd' as x %}",
  "{{ ''.__class__.__mro__ }}",
  "{{ raise_exception('no') }}",
  "{{ raise_exception() }}",
  "{{ strftime_now() }}",
  "{{ strftime_now(7) }}",
  "{{ messages[99].content.x }}",
  "{{ 1 / 0 }}",
  "{% break %}",
  "{{ lipsum(n=99999) }}",
  "{{ cycler() }}",
  "{{ messages | tojson(indent=10**9) }}",
  "{" * 5000,
  "(" * 5000,
  "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
  "{{ " + "-" * 5000 + "1 }}",
  "{% if 1 %}" * 300,
  "\x00{{ '\x00' }}",
  "{{ messages[0].content.encode('utf-8').decode('utf-16') }}",
  "{{ '\\ud800' }}",
  TEMPLATE + "{{ '\\ud800' }}",
  "",
)


# Templates that say all of a conversation, or some of it, in an odd form.
ODD_TEMPLATES = ("{{ messages | map('upper') | list }}", "{{ messages | pprint }}", TEMPLATE * 99)


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES, ids=range(len(HOSTILE_TEMPLATES)))
def test_hostile_templates(template):
  assert not is_taken(lambda: ChatTemplate(byte_level(), template))
  # What is said only where there is a question such as this one, is refused when it is asked.
  late = "{% if 'LATE' in messages[0].content %}" + template + "{% endif %}" + TEMPLATE
  with contextlib.suppress(UserError):  # some cannot be compiled
    made = ChatTemplate(byte_level(), late)
    is_taken(lambda: made.prompt("LATE"))


@pytest.mark.parametrize("template", ODD_TEMPLATES, ids=range(len(ODD_TEMPLATES)))
def test_odd_templates(template):
  is_taken(lambda: ChatTemplate(byte_level(), template))


def test_mutated_templates():
  names = ("QWEN3", "QWEN3_5", "R1", "HARMONY", "NEMOTRON", "OLMO_THINK", "SMOLLM3", "CHATML")
  good = [getattr(thinking_templates, name) for name in names]
  tokenizer = byte_level()
  for template in good:
    assert not refusal(lambda template=template: ChatTemplate(tokenizer, template))
  refused = 0
  for _, rng in cases_of("templates", 250):
    template = mutated_text(rng.choice(good), rng)

    def use(template=template):
      made = ChatTemplate(tokenizer, template)
      made.prompt("2?", "Add.")
      assert made.stop_ids is not None

    refused += not is_taken(use)
  assert 30 < refused < 250
