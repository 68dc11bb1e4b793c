"""The rankings by name: one record each, with its cost and its settings."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings.interface import RankingSettings, RankTokens

Maker = Callable[[Model, RankingSettings], RankTokens]
Check = Callable[[ModelConfig, RankingSettings], None]


class ChainSizes(NamedTuple):
  """Tokens of a chain's segments, and units of its reasoning."""

  prompt: int
  reasoning: int
  answer: int
  units: int


class ModelRun(NamedTuple):
  """A number of equally long texts that go through the pruner."""

  length: float  # token positions of each text
  scored: float  # positions of each text at which the LM head is applied
  start: int = 0  # positions of the cached prefix that each text continues
  num_texts: int = 1
  # Passes through each text; a backward pass costs about two forward passes.
  forward_passes: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
  """An alternative to greedy search: a rule that gives a deletion order."""

  about: str  # the order in words, for error messages
  # Function that makes the ranking, or its name `module.function` in `greedy_prune_jax.rankings`; a
  # name is imported only when the ranking is made.
  maker: str | Maker
  # Runs of the pruner that order one chain. Scoring the texts along the order is not among them.
  model_runs: Callable[[ChainSizes], list[ModelRun]]
  # Required settings, which no other ranking reads, with the meaning of each.
  needs: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  # Optional settings, which are refused for rankings that do not list them.
  options: tuple[str, ...] = ()
  other_models: str = ""  # models that run beside the pruner; estimates of cost do not count them
  # Function that raises a UserError for settings that cannot be used with a pruner's config, or its
  # name, as of `maker`; a dry run calls it too, so it must not need weights.
  check: str | Check | None = None

  def check_settings(self, config: ModelConfig, settings: RankingSettings) -> None:
    """Refuses settings that the ranking cannot be made with, before weights are loaded.

    Raises:
      UserError: a file that is named cannot be read, or the pruner is of another shape.
    """
    if self.check is not None:
      _imported(self.check)(config, settings)

  def make(self, model: Model, settings: RankingSettings) -> RankTokens:
    """Makes the function that orders the tokens of a chain.

    Raises:
      UserError: the ranking cannot be made with this pruner or these settings.
    """
    return _imported(self.maker)(model, settings)


def _imported(function: Any) -> Any:
  """The function of a name `module.function` in `greedy_prune_jax.rankings`; a function itself."""
  if not isinstance(function, str):
    return function
  module, _, name = function.rpartition(".")
  return getattr(importlib.import_module(f"greedy_prune_jax.rankings.{module}"), name)


def no_runs(sizes: ChainSizes) -> list[ModelRun]:
  """No runs: the ranking does not use the pruner."""
  return []


def whole_chain(sizes: ChainSizes) -> list[ModelRun]:
  """One forward pass over the chain."""
  length = sizes.prompt + sizes.reasoning + sizes.answer
  return [ModelRun(length, length)]


def whole_chain_and_back(sizes: ChainSizes) -> list[ModelRun]:
  """One forward and one backward pass over the chain."""
  return [run._replace(forward_passes=3) for run in whole_chain(sizes)]


def without_each_unit(sizes: ChainSizes) -> list[ModelRun]:
  """One pass over the prompt, and one over the rest of the chain without each unit in turn."""
  length = sizes.reasoning - sizes.reasoning / sizes.units + sizes.answer - 1
  return [ModelRun(sizes.prompt, 1), ModelRun(length, length, sizes.prompt, sizes.units)]


RANKINGS: dict[str, Ranking] = {
  "random": Ranking(
    about="a random order, drawn from ranking_seed and the chain's id",
    maker="model_free.random",
    model_runs=no_runs,
  ),
  "keep_first": Ranking(
    about="the last token first: truncation at the end",
    maker="model_free.keep_first",
    model_runs=no_runs,
  ),
  "keep_last": Ranking(
    about="the first token first: the end stays",
    maker="model_free.keep_last",
    model_runs=no_runs,
  ),
  "random_places": Ranking(
    about="a random order of positions, the same for all chains of one length",
    maker="planted.random_places",
    model_runs=no_runs,
  ),
  "oracle": Ranking(
    about="unneeded pieces of planted chains first, by their labels",
    maker="planted.oracle",
    model_runs=no_runs,
  ),
  "numbers_first": Ranking(
    about="a random order, but numbers and operators last",
    maker="model_free.numbers_first",
    model_runs=no_runs,
  ),
  "surprisal": Ranking(
    about="the most predictable token first",
    maker="one_pass.surprisal",
    model_runs=whole_chain,
  ),
  "attention": Ranking(
    about="the token that later positions attend to least first",
    maker="one_pass.attention",
    model_runs=whole_chain,
    options=("attention_layers", "attention_heads"),
    check="one_pass.check_layers_and_heads",
  ),
  "answer_attention": Ranking(
    about="the token that the answer (behind thinking, all after its tag) attends to least first",
    maker="one_pass.answer_attention",
    model_runs=whole_chain,
    options=("attention_layers", "attention_heads"),
    check="one_pass.check_layers_and_heads",
  ),
  "surprisal_attention": Ranking(
    about="the lowest mean of the ranks by surprisal and by answer_attention first",
    maker="one_pass.surprisal_attention",
    model_runs=whole_chain,
  ),
  "gradient": Ranking(
    about="the token first whose hiding raises the objective's NLL least, by its gradient",
    maker="gradient.gradient",
    model_runs=whole_chain_and_back,
    check="gradient.check_pruner",
  ),
  "attention_regression": Ranking(
    about="the lowest prune rank first, as predicted from attention by a regression of analyze",
    maker="attention_regression.attention_regression",
    model_runs=whole_chain,
    needs={"attention_regression": "the file of a regression, which the job analyze writes"},
    check="attention_regression.check_file",
  ),
  "other_run": Ranking(
    about="the order of another run of prune, by whichever pruner",
    maker="other_run.other_run",
    model_runs=no_runs,
    needs={"other_run": "the workdir of that run, on the same chains"},
    check="other_run.check_run",
  ),
  "llmlingua": Ranking(
    about="the token first that LLMLingua-2's classifier is least likely to keep",
    maker="llmlingua.llmlingua",
    model_runs=no_runs,
    needs={"llmlingua_model": "the name of a classifier of LLMLingua-2"},
    other_models="the classifier",
  ),
  "step_surprisal": Ranking(
    about="the unit first whose first token is most predictable, as in ASAP",
    maker="steps.step_surprisal",
    model_runs=whole_chain,
  ),
  "step_entropy": Ranking(
    about="the unit first whose tokens' entropies have the lowest sum",
    maker="steps.step_entropy",
    model_runs=whole_chain,
  ),
  "answer_perplexity": Ranking(
    about="the unit first without which the answer's perplexity is lowest, as in LIMOPro",
    maker="steps.answer_perplexity",
    model_runs=without_each_unit,
  ),
  "text_model": Ranking(
    about="the token first that the fewest compressions by a text model keep",
    maker="text_model.text_model",
    model_runs=no_runs,
    needs={"text_model": "the name of a model, or openai for one at an endpoint"},
    other_models="the text model",
  ),
}
