"""The rankings by name: one record each, with all that is to be known before one is made."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import RankingSettings, RankTokens

Maker = Callable[[Model, RankingSettings], RankTokens]


class ChainSizes(NamedTuple):
  """Tokens of a chain's segments, and units of its reasoning."""

  prompt: int
  reasoning: int
  answer: int
  units: int


class ModelRun(NamedTuple):
  """Texts of one length that go through the pruner.

  Attributes:
    length: token positions of each.
    scored: positions of each at which the LM head is applied.
    start: positions before each whose keys and values are cached.
    num_texts: number of such texts.
    forward_passes: through each; a backward pass takes the time of about two.
  """

  length: float
  scored: float
  start: int = 0
  num_texts: int = 1
  forward_passes: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
  """An order to delete tokens in, other than that of greedy search.

  Attributes:
    about: description of the tokens that leave first.
    maker: the function that makes it, or its `module.function` below `greedy_prune_jax.rankings`,
      imported when the ranking is made.
    model_runs: runs of the pruner to order the tokens of one chain; NLLs along the order come on
      top.
    needs: settings of `RankingSettings` that it cannot do without and no other ranking reads, and
      the meaning of each.
    options: settings that it may be given and no other ranking reads.
    other_models: other models that run for it, which no estimate counts.
  """

  about: str
  maker: str | Maker
  model_runs: Callable[[ChainSizes], list[ModelRun]]
  needs: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  options: tuple[str, ...] = ()
  other_models: str = ""

  def make(self, model: Model, settings: RankingSettings) -> RankTokens:
    """The function that orders the tokens of a chain.

    Raises:
      UserError: the ranking cannot be made with this pruner or these settings.
    """
    if not isinstance(self.maker, str):
      return self.maker(model, settings)
    module, _, function = self.maker.rpartition(".")
    module = importlib.import_module(f"greedy_prune_jax.rankings.{module}")
    return getattr(module, function)(model, settings)


def no_runs(sizes: ChainSizes) -> list[ModelRun]:
  """Of a ranking that does without the pruner."""
  return []


def whole_chain(sizes: ChainSizes) -> list[ModelRun]:
  """One forward pass over the chain."""
  length = sizes.prompt + sizes.reasoning + sizes.answer
  return [ModelRun(length, length)]


def whole_chain_and_back(sizes: ChainSizes) -> list[ModelRun]:
  """A forward and a backward pass over the chain."""
  return [run._replace(forward_passes=3) for run in whole_chain(sizes)]


def without_each_unit(sizes: ChainSizes) -> list[ModelRun]:
  """The prompt, and the chain without each of its units."""
  length = sizes.reasoning - sizes.reasoning / sizes.units + sizes.answer - 1
  return [ModelRun(sizes.prompt, 1), ModelRun(length, length, sizes.prompt, sizes.units)]


RANKINGS: dict[str, Ranking] = {
  "random": Ranking(
    about="drawn at random, from ranking_seed and the chain's id",
    maker="model_free.random",
    model_runs=no_runs,
  ),
  "keep_first": Ranking(
    about="the last first: truncation",
    maker="model_free.keep_first",
    model_runs=no_runs,
  ),
  "keep_last": Ranking(
    about="the first first: the end stays",
    maker="model_free.keep_last",
    model_runs=no_runs,
  ),
  "random_places": Ranking(
    about="drawn at random, alike for all chains of a length",
    maker="planted.random_places",
    model_runs=no_runs,
  ),
  "oracle": Ranking(
    about="what planted chains do not need first, by their labels",
    maker="planted.oracle",
    model_runs=no_runs,
  ),
  "numbers_first": Ranking(
    about="at random, numbers and operators last",
    maker="model_free.numbers_first",
    model_runs=no_runs,
  ),
  "surprisal": Ranking(
    about="the most predictable first",
    maker="one_pass.surprisal",
    model_runs=whole_chain,
  ),
  "attention": Ranking(
    about="the least attended to by later positions first",
    maker="one_pass.attention",
    model_runs=whole_chain,
    options=("attention_layers", "attention_heads"),
  ),
  "answer_attention": Ranking(
    about="the least attended to by the answer first, of thinking by what follows the closing tag",
    maker="one_pass.answer_attention",
    model_runs=whole_chain,
    options=("attention_layers", "attention_heads"),
  ),
  "surprisal_attention": Ranking(
    about="the least by surprisal and answer_attention together first, the mean of the two ranks",
    maker="one_pass.surprisal_attention",
    model_runs=whole_chain,
  ),
  "gradient": Ranking(
    about="the least needed by the gradient of the objective in its attention gate first",
    maker="gradient.gradient",
    model_runs=whole_chain_and_back,
  ),
  "attention_regression": Ranking(
    about="by the regression of prune ranks on attention that the job analyze fits",
    maker="attention_regression.attention_regression",
    model_runs=whole_chain,
    needs={"attention_regression": "the file of a regression, which the job analyze writes"},
  ),
  "llmlingua": Ranking(
    about="the least likely to be kept by LLMLingua-2's classifier first",
    maker="llmlingua.llmlingua",
    model_runs=no_runs,
    needs={"llmlingua_model": "the name of a classifier of LLMLingua-2"},
    other_models="the classifier",
  ),
  "step_surprisal": Ranking(
    about="units by the surprisal of their first token, as ASAP",
    maker="steps.step_surprisal",
    model_runs=whole_chain,
  ),
  "step_entropy": Ranking(
    about="units by the sum of the entropies before their tokens",
    maker="steps.step_entropy",
    model_runs=whole_chain,
  ),
  "answer_perplexity": Ranking(
    about="units by the answer's perplexity without each, as LIMOPro",
    maker="steps.answer_perplexity",
    model_runs=without_each_unit,
  ),
  "text_model": Ranking(
    about="what the fewest of a text model's compressions keep first",
    maker="text_model.text_model",
    model_runs=no_runs,
    needs={"text_model": "the name of a model, or openai for one at an endpoint"},
    other_models="the text model",
  ),
}
