"""Rankings by name."""

from collections.abc import Callable

from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.rankings import attention_regression as regression
from greedy_prune_jax.rankings import gradient, llmlingua, model_free, one_pass, steps, text_model
from greedy_prune_jax.rankings.interface import Ranking, RankingSettings

RANKINGS: dict[str, Callable[[Model, RankingSettings], Ranking]] = {
  "random": model_free.random,
  "keep_first": model_free.keep_first,
  "keep_last": model_free.keep_last,
  "numbers_first": model_free.numbers_first,
  "surprisal": one_pass.surprisal,
  "attention": one_pass.attention,
  "gradient": gradient.gradient,
  "attention_regression": regression.attention_regression,
  "llmlingua": llmlingua.llmlingua,
  "step_surprisal": steps.step_surprisal,
  "answer_perplexity": steps.answer_perplexity,
  "text_model": text_model.text_model,
}
