"""Rankings of whole units, such as steps, by measures from papers on deleting steps."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from greedy_prune_jax.chains.chain import unit_starts
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import (
  RankedTokens,
  RankingInput,
  RankingSettings,
  RankTokens,
)
from greedy_prune_jax.scoring.features import extract_features, token_entropies
from greedy_prune_jax.scoring.objectives import ChainNLL
from greedy_prune_jax.search import texts
from greedy_prune_jax.search.texts import start_prompt, texts_at_once

_BLOCK_POSITIONS = 2048  # that go through the model at once


def step_surprisal(model: Model, settings: RankingSettings) -> RankTokens:
  """The unit whose first token is most predictable leaves first.

  Source: ASAP, arXiv 2508.05988: the surprisal of a step's first token measures how much the step
  decides. There a model first marks text that must stay, and steps leave until a budget of tokens
  is met. Here this measure alone orders all units.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    [(_, values)] = extract_features(model, [chain.segments], batch_size=1)
    starts = unit_starts(chain.sizes)
    return _by_units(values[starts], chain, len(chain.segments))

  return rank


def step_entropy(model: Model, settings: RankingSettings) -> RankTokens:
  """The unit with the lowest sum of its tokens' entropies leaves first.

  A token's entropy is that of the distribution that predicts it.

  Source: step entropy, arXiv 2508.03346. There the model that wrote the chain gives the
  distributions; here the pruner does.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    values = token_entropies(model, chain.segments)
    sums = np.add.reduceat(values, unit_starts(chain.sizes))
    return _by_units(sums, chain, len(chain.segments))

  return rank


def answer_perplexity(model: Model, settings: RankingSettings) -> RankTokens:
  """The unit whose removal raises the answer's perplexity least, or lowers it most, leaves first.

  Each unit is removed from the whole chain by itself, and nothing is scored again after a
  deletion. Greedy search with the objective `answer` does score again.

  Source: LIMOPro, arXiv 2505.19187. There steps are classified, and only those may leave that
  check, correct, or try another way. Here every unit may leave.
  """

  def rank(chain: RankingInput) -> RankedTokens:
    segments, gone = chain.segments, unit_positions(chain.sizes)
    # Perplexity is the exponential of this NLL, and differences to the whole chain's subtract a
    # constant: neither changes the order.
    nlls = score_without(model, segments, gone)["answer"]
    behind = len(segments.reasoning) + len(segments.answer) - 1
    positions = len(segments.prompt) + len(gone) * behind - len(segments.reasoning)
    return _by_units(nlls, chain, positions)

  return rank


def score_without(
  model: Model, segments: Segments, gone: Sequence[Sequence[int]], *, progress: bool = False
) -> dict[str, Float[np.ndarray, " K"]]:
  """Scores K texts, each a chain without some of its reasoning positions; nats per token, by name.

  Args:
    gone: reasoning positions missing from each text.
    progress: True to show a progress bar.
  """
  prompt = start_prompt(model, segments, _BLOCK_POSITIONS)
  longest = len(segments.reasoning) - min(map(len, gone)) + len(segments.answer)
  count = texts_at_once(model, longest, len(gone), _BLOCK_POSITIONS)
  scores = []
  starts = range(0, len(gone), count)
  for start in tqdm(starts, unit="block") if progress else starts:
    block = gone[start : start + count]
    scores.append(texts.score_texts(model, prompt, segments, block, _BLOCK_POSITIONS, count))
  joined = (np.concatenate(parts) for parts in zip(*scores, strict=True))
  return dict(zip(ChainNLL._fields, joined, strict=True))


def unit_positions(unit_sizes: Sequence[int]) -> list[range]:
  """Reasoning positions of each unit."""
  starts = unit_starts(unit_sizes)
  return [range(start, start + n) for start, n in zip(starts, unit_sizes, strict=True)]


def _by_units(
  importance: Float[np.ndarray, " U"], chain: RankingInput, positions_scored: int
) -> RankedTokens:
  """Orders the tokens, those of the least important unit first; of equals, the lower unit first."""
  return RankedTokens.of(np.repeat(importance, chain.sizes), chain, positions_scored)
