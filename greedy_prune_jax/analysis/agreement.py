"""Agreement of two annotators: Cohen's kappa, overall and per category, and their confusions."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from greedy_prune_jax.chains.categories import Category, Labels


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Agreement between two annotators over the tokens that both labelled.

  Attributes:
    num_tokens: number of tokens.
    num_unlabelled: tokens that one of the two (or both) left unlabelled; they count nowhere else.
    accuracy: share of equal labels.
    kappa: Cohen's kappa over all categories; None where it is undefined (both gave one label only).
    kappa_of: kappa of "it or another" by category; None where neither used it.
    confusion: [first's category, second's category], counts in the order of `Category`.
  """

  num_tokens: int
  num_unlabelled: int
  accuracy: float
  kappa: float | None
  kappa_of: dict[Category, float | None]
  confusion: Int[np.ndarray, "6 6"]


def compare_labels(first: Sequence[Labels], second: Sequence[Labels]) -> Agreement:
  """Compares the labels that two annotators gave to the same chains.

  Raises:
    ValueError: they cover other chains or tokens, or no token was labelled by both.
  """
  from sklearn.metrics import confusion_matrix

  if [len(labels) for labels in first] != [len(labels) for labels in second]:
    raise ValueError(
      f"labels of {len(first)} and {len(second)} chains with {sum(map(len, first))} and "
      f"{sum(map(len, second))} tokens do not cover the same tokens"
    )
  pairs = [
    pair for one, other in zip(first, second, strict=True) for pair in zip(one, other, strict=True)
  ]
  both = [(a, b) for a, b in pairs if a is not None and b is not None]
  if not both:
    raise ValueError(f"none of the {len(pairs)} tokens was labelled by both annotators")
  ours, theirs = zip(*both, strict=True)
  confusion = confusion_matrix(ours, theirs, labels=list(Category))
  return Agreement(
    num_tokens=len(both),
    num_unlabelled=len(pairs) - len(both),
    accuracy=float(np.trace(confusion) / len(both)),
    kappa=cohen_kappa(ours, theirs),
    kappa_of={
      category: cohen_kappa([a == category for a in ours], [b == category for b in theirs])
      for category in Category
    },
    confusion=confusion,
  )


def cohen_kappa(first: Sequence[object], second: Sequence[object]) -> float | None:
  """Agreement beyond chance, 1 at best and 0 at chance; None where both gave one label only."""
  from sklearn.metrics import cohen_kappa_score

  one_label = len({*first, *second}) == 1
  return None if one_label else float(cohen_kappa_score(first, second))
