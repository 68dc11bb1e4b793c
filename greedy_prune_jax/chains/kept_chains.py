"""Pruned chains as input: the text that is left becomes a chain of its own, to prune again.

Its record says under `pruned_from` what its positions are relative to: the first run's reasoning,
and which of its characters are left. A chain that is pruned a third time still tells of the first.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from greedy_prune_jax.chains.categories import token_spans
from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.reading import BadChain, OnBad, describe_parts, read_pruned
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields

KEY = "pruned_from"

Span = tuple[int, int]  # characters from the first up to, and without, the second


def read_kept(source: str, keep_ratio: float, *, on_bad: OnBad | None = None) -> Iterator[Chain]:
  """Yields what a prune run left of its chains at a keep ratio.

  Args:
    source: the run's workdir, or one of its files.
    keep_ratio: one that the run went down to, asked for then or not.
    on_bad: called with every chain of which too little is left, which is then left out.

  Raises:
    UserError: there are no pruned chains, or, without `on_bad`, one was not pruned so far.
  """

  def kept(pruned: PrunedChain) -> Chain | None:
    try:
      return kept_chain(pruned, keep_ratio, source)
    except UserError as error:
      if on_bad is None:
        raise
      on_bad(BadChain(place=source, id=pruned.chain.id, reason=str(error)))
      return None

  return (chain for pruned in read_pruned(source) if (chain := kept(pruned)))


def describe_kept(source: str, keep_ratio: float, *, on_bad: OnBad | None = None) -> str:
  """The first chain of `read_kept`; a UserError where there is none."""
  chain = next(read_kept(source, keep_ratio, on_bad=on_bad), None)
  if chain is None:
    raise UserError(f"{source}: no chain of it can be used at chains_ratio={keep_ratio:g}")
  head = f"first chain of {source}, as chains_ratio={keep_ratio:g} leaves it"
  return "\n".join([head, *describe_parts(chain)])


def kept_chain(pruned: PrunedChain, keep_ratio: float, source: str) -> Chain:
  """The chain that is left at a keep ratio.

  Raises:
    UserError: the chain was not pruned so far, or nothing is left of it that a text can spell.
  """
  chain, positions = pruned.chain, pruned.positions_at(keep_ratio)
  if pruned.is_torn(positions):
    raise UserError(
      f"chain {chain.id}: parts of characters are left at {keep_ratio}, which no text can spell; "
      "prune with unit=word to keep characters whole"
    )
  spans_of = token_spans(pruned.reasoning_tokens)
  spans = _joined([spans_of[i] for i in positions])
  reasoning = "".join(chain.reasoning[start:end] for start, end in spans)
  if not reasoning.strip():
    raise UserError(
      f"chain {chain.id}: nothing of its reasoning is left at {keep_ratio}; "
      "on_bad_chain=skip leaves such chains out"
    )
  before = chain.extra.get(KEY)
  whole, spans = (chain.reasoning, spans) if before is None else _first(before, spans)
  told = {
    "runs": [
      *(before["runs"] if before else []),
      {
        "source": source,
        "keep_ratio": keep_ratio,
        "pruner": pruned.pruner,
        "objective": pruned.objective,
        "ranking": pruned.ranking,
        "unit": pruned.unit,
      },
    ],
    "reasoning": whole,
    "kept_spans": [list(span) for span in spans],
  }
  return dataclasses.replace(chain, reasoning=reasoning, extra=dict(chain.extra) | {KEY: told})


def _joined(spans: Sequence[Span]) -> list[Span]:
  """The spans without empty ones, those that touch as one."""
  joined: list[Span] = []
  for start, end in spans:
    if joined and joined[-1][1] == start:
      joined[-1] = (joined[-1][0], end)
    elif end > start:
      joined.append((start, end))
  return joined


def _first(before: dict, spans: Sequence[Span]) -> tuple[str, list[Span]]:
  """The first run's reasoning, and where in it spans of what it left are.

  Raises:
    UserError: what an earlier run told is not of the form that `kept_chain` writes.
  """
  whole = fields.get_text(before, "reasoning")
  inside, offset = [], 0  # of the earlier span in what was left
  for kept in fields.get_items(before, "kept_spans", list):
    if len(kept) != 2 or not all(type(x) is int for x in kept):
      raise UserError(f'"kept_spans" has {kept!r}; expected a first and a last character')
    length = kept[1] - kept[0]
    for start, end in spans:
      start, end = max(start - offset, 0), min(end - offset, length)
      if start < end:
        inside.append((kept[0] + start, kept[0] + end))
    offset += length
  return whole, _joined(sorted(inside))
