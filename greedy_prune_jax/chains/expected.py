"""The form of a chain's answer and its right value, found in the chain itself."""

from typing import NamedTuple

from greedy_prune_jax.chains.answers import BOXED, LETTER, NUMBER, AnswerForm, split_response
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.errors import UserError

# In this order: a box is a number's marker too, and "the answer is: 5" no letter's.
_FORMS = (BOXED, NUMBER, LETTER)


class Expected(NamedTuple):
  """What a chain's answer looks like.

  Attributes:
    form: in which it is written.
    lead: its text up to what it says, such as `{"answer": "`.
    target: what is right; where nobody knows the gold answer, what the chain itself says.
  """

  form: AnswerForm
  lead: str
  target: str


def expected_answer(chain: Chain) -> Expected:
  """How a chain's answer is written, and what is the right one.

  Where several forms fit ("The answer is (B) 5" may say a letter or a number), the one by which the
  chain is right is taken, else the first that fits.

  Raises:
    UserError: no answer of a form that we know is found in the chain's.
  """
  found = [
    (form, split) for form in _FORMS if (split := split_response(chain.answer, form)) is not None
  ]
  if not found:
    forms = ", ".join(
      form.write(example) for form, example in zip(_FORMS, ("72", "72", "B"), strict=True)
    )
    raise UserError(
      f"chain {chain.id}: no answer is found in its answer {chain.answer!r}; expected one like "
      f"those that sample writes: {forms}"
    )
  right = [x for x in found if chain.target and x[0].is_right(x[1].value, chain.target)]
  form, split = (right or found)[0]
  marker = form.marker.match(split.answer)
  assert marker is not None  # the answer begins with it
  lead = split.answer[: split.answer.index(split.value, marker.end())]
  # A space in front of a word is a part of the word's token in most tokenizers.
  return Expected(form, lead.rstrip(" "), chain.target or split.value)
