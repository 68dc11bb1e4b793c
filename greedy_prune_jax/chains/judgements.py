"""Judgements of parts of a chain, by people or by interventions, where its row came with them.

Three kinds, by the keys that a chain carries: importances of sentences (`importances`, or the
`chunks` of Thought Anchors), ratings of steps (`steps` and `step_labels`, of PRM800K), and the
first wrong step (`steps` and `first_wrong_step`, of ProcessBench). They are of the text that the
row had: a chain that was pruned or rewritten since carries them along, and is not judged by them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.kept_chains import KEY as PRUNED_FROM
from greedy_prune_jax.chains.thinking_chains import after_thinking
from greedy_prune_jax.errors import UserError

MEASURE = "counterfactual_importance_kl"  # the importance that is read of Thought Anchors' several

Part = tuple[int, int, float]  # start and end in the characters of the reasoning, and a value
_Span = tuple[int, int]

_REWRITTEN = (PRUNED_FROM, "drp")  # keys of chains whose reasoning is not their row's


def importances(chain: Chain) -> list[Part] | None:
  """Importances of the sentences of a chain, by intervention; None where it came without.

  Raises:
    UserError: one is no number, or its sentence is not in the reasoning.
  """
  if not _has(chain):
    return None
  if "importances" in chain.extra:
    items = _items(chain, "importances")
    return [_importance(chain, place, item) for place, item in enumerate(items)]
  if "chunks" not in chain.extra:
    return None
  chunks = [chunk if isinstance(chunk, dict) else {} for chunk in _items(chain, "chunks")]
  values = [chunk.get(MEASURE) for chunk in chunks]
  if all(value is None for value in values):
    return None
  spans = _find(chain.reasoning, [chunk.get("chunk") for chunk in chunks])
  found = []
  for place, (span, value) in enumerate(zip(spans, values, strict=True)):
    if span is None:
      raise UserError(
        f'chain {chain.id}: item {place} of "chunks" is not in the reasoning behind the one before'
      )
    if value is not None:
      found.append((*span, _number(chain, f'item {place} of "chunks", {MEASURE}', value)))
  return found


def ratings(chain: Chain) -> list[Part] | None:
  """Ratings of the steps in a chain's reasoning, 1, 0 or -1; None where it came without.

  Steps without a rating are left out.

  Raises:
    UserError: steps and ratings do not fit each other.
  """
  if not _has(chain, "steps", "step_labels"):
    return None
  labels = _items(chain, "step_labels")
  spans = _steps(chain)
  if len(labels) != len(spans):
    raise UserError(
      f'chain {chain.id}: "step_labels" has {len(labels)} items and "steps" {len(spans)}; they '
      "must have as many"
    )
  return [
    (*span, _number(chain, f'item {place} of "step_labels"', label))
    for place, (span, label) in enumerate(zip(spans, labels, strict=True))
    if span is not None and label is not None
  ]


def right_steps(chain: Chain) -> list[Part] | None:
  """Steps in a chain's reasoning: 0 for the first wrong one, 1 for all others; None without.

  What follows an error was not judged. It is no first error, whatever it is, and without it the
  wrong step would always be the last.

  Raises:
    UserError: there is no such step.
  """
  if not _has(chain, "steps", "first_wrong_step"):
    return None
  spans, wrong = _steps(chain), chain.extra["first_wrong_step"]
  if type(wrong) is not int or not -1 <= wrong < len(spans):
    raise UserError(
      f'chain {chain.id}: "first_wrong_step" is {wrong!r}; expected -1 to {len(spans) - 1}'
    )
  return [(*span, float(place != wrong)) for place, span in enumerate(spans) if span is not None]


def _has(chain: Chain, *keys: str) -> bool:
  """Tells whether a chain has all of these keys, about the reasoning that it has now."""
  return chain.extra.keys() >= set(keys) and chain.extra.keys().isdisjoint(_REWRITTEN)


def _items(chain: Chain, key: str) -> Sequence[Any]:
  items = chain.extra[key]
  if not isinstance(items, list | tuple):
    raise UserError(f'chain {chain.id}: "{key}" is {items!r:.60}; expected a list')
  return items


def _number(chain: Chain, name: str, value: Any) -> float:
  if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
    raise UserError(f"chain {chain.id}: {name} is {value!r:.60}; expected a number")
  return float(value)


def _importance(chain: Chain, place: int, item: Any) -> Part:
  name, longest = f'item {place} of "importances"', len(chain.reasoning)
  match item:
    case [int(start), int(end), value] if 0 <= start < end <= longest:
      return start, end, _number(chain, name, value)
  raise UserError(
    f"chain {chain.id}: {name} is {item!r:.60}; expected [start, end, importance], a span of the "
    f"{longest} characters of the reasoning"
  )


def _steps(chain: Chain) -> list[_Span | None]:
  """The part of each step that is in the reasoning; None for those of the answer."""
  steps = _items(chain, "steps")
  text = chain.reasoning + after_thinking(chain)  # a closing tag between them is in no step
  found: list[_Span | None] = []
  for place, span in enumerate(_find(text, steps)):
    if span is None and str(steps[place]).strip():
      raise UserError(
        f'chain {chain.id}: item {place} of "steps" is not in the chain behind the one before'
      )
    if span is not None:  # a step may end in the answer
      start, end = span[0], min(span[1], len(chain.reasoning.rstrip()))
      span = (start, end) if start < end else None
    found.append(span)
  return found


def _find(text: str, parts: Sequence[Any]) -> Iterator[_Span | None]:
  """The place of each part behind the one before, whatever white space it is cut with."""
  places = [at for at, character in enumerate(text) if not character.isspace()]
  packed = "".join(text[at] for at in places)
  start = 0
  for part in parts:
    needle = "".join(part.split()) if isinstance(part, str) else ""
    found = packed.find(needle, start) if needle else -1
    if found < 0:
      yield None
    else:
      start = found + len(needle)
      yield places[found], places[start - 1] + 1
