"""The form of a chain's answer and its right value, found in the chain itself."""

from typing import NamedTuple

from greedy_prune_jax.chains.answers import (
  BOXED,
  BOXES,
  LETTER,
  NUMBER,
  AnswerForm,
  bare_value,
  last_answer,
)
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.errors import UserError

# In this order: a box is a number's marker too, and "the answer is: 5" no letter's.
_FORMS = (BOXED, NUMBER, LETTER)


class Expected(NamedTuple):
  """Form, lead and right value of a chain's answer.

  Attributes:
    form: form in which the answer is written.
    lead: text of the answer up to its value, such as `{"answer": "`; of a bare answer that with
      which `sample` begins one.
    target: the right value; where nobody knows the gold answer, the chain's own.
    found: the chain's own value.
  """

  form: AnswerForm
  lead: str
  target: str
  found: str


def expected_answer(chain: Chain) -> Expected:
  """Finds the form in which a chain's answer is written, and the right value.

  Where several forms fit ("The answer is (B) 5" may say a letter or a number), the one by which the
  chain is right is taken, else the first that fits. An answer without a marker is one if it is the
  target: a bare number, letter or word.

  Raises:
    UserError: no answer of a form that we know is found in the chain's.
  """
  readings = [  # BOXED's second marker finds what NUMBER's does, which says more
    (form, answer)
    for form in _FORMS
    if (answer := last_answer(chain.answer, BOXES if form is BOXED else form))
  ]
  if not readings:
    return _bare_answer(chain)
  by_target = [x for x in readings if chain.target and x[0].is_right(x[1].value.text, chain.target)]
  readable = [x for x in readings if x[0].is_target(x[1].value.text)]
  form, (start, _, value) = (by_target or readable or readings)[0]
  lead = chain.answer[start : value.start]
  # A space in front of a word is a part of the word's token in most tokenizers.
  return Expected(form, lead.rstrip(" "), chain.target or value.text, value.text)


def _bare_answer(chain: Chain) -> Expected:
  for form in (NUMBER, LETTER, BOXED):  # any text may be in a box
    found = bare_value(chain.answer, form)
    if chain.target and found and form.is_right(found, chain.target):
      lead, _, _ = form.write("0").partition("0")
      return Expected(form, lead.rstrip(" "), chain.target, found)
  raise without_marker(chain)


def without_marker(chain: Chain) -> UserError:
  """The error on a chain whose answer begins with no marker."""
  forms = ", ".join(
    form.write(example) for form, example in zip(_FORMS, ("72", "72", "B"), strict=True)
  )
  return UserError(
    f"chain {chain.id}: no answer is found in its answer {chain.answer!r}; expected one like "
    f"those that sample writes: {forms}"
  )
