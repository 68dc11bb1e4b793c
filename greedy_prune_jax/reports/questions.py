"""Values of chains by their questions: several chains of one question are not independent."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# In captions, of means over questions, and of resampled chains, each of which weighs the same.
COUNT_AS_ONE = "chains of one question count as one"
DRAWN_TOGETHER = "chains of one question are drawn together"


def sums_by_question(
  values: Float[np.ndarray, "B ..."], questions: Sequence[str]
) -> Float[np.ndarray, "Q ..."]:
  """The sum over the chains of each question, in the order of their first ones.

  Args:
    values: one a chain.
    questions: each chain's question.
  """
  place = {question: i for i, question in enumerate(dict.fromkeys(questions))}
  if len(questions) != len(values):
    raise ValueError(f"{len(values)} chains have {len(questions)} questions; expected one each")
  sums = np.zeros((len(place), *values.shape[1:]))
  np.add.at(sums, [place[question] for question in questions], values)
  return sums


def means_by_question(
  values: Float[np.ndarray, "B ..."], questions: Sequence[str]
) -> Float[np.ndarray, "Q ..."]:
  """The mean over the chains of each question, NaN left out; NaN where all are."""
  known = ~np.isnan(values)
  sums = sums_by_question(np.where(known, values, 0.0), questions)
  with np.errstate(invalid="ignore"):
    return sums / sums_by_question(known.astype(float), questions)
