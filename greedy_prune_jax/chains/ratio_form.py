"""The keep ratio as students read it in the question."""

from greedy_prune_jax.chains.chain import ratio_key
from greedy_prune_jax.errors import UserError


def told_question(question: str, keep_ratio: float | int, ratio_form: str) -> str:
  """The question as the student is asked it; see `configs/distill.py`."""
  if not ratio_form:
    return question
  told = ratio_form.replace("{ratio}", ratio_key(keep_ratio))
  return told.replace("{question}", question)  # last: a question may have braces


def check_ratios(keep_ratios: tuple[float, ...]) -> None:
  """A UserError unless these are keep ratios that a student can be trained with."""
  if not keep_ratios:
    raise UserError("keep_ratios is empty; expected a tuple such as (0.5,); (1.0,): unpruned")
  for ratio in keep_ratios:
    if not 0 <= ratio <= 1:
      raise UserError(
        f"keep_ratios={keep_ratios} has {ratio!r}; a keep ratio is a number from 0 (answer "
        f"only) to 1 (all of the reasoning)"
      )
  if len(set(keep_ratios)) < len(keep_ratios):
    raise UserError(f"keep_ratios={keep_ratios} repeats a ratio")


def check_ratio_form(ratio_form: str) -> None:
  """A UserError unless it is empty or has a place for the question and one for the ratio."""
  if ratio_form and not all(name in ratio_form for name in ("{question}", "{ratio}")):
    raise UserError(
      f"ratio_form={ratio_form!r}; expected a text with {{question}} and {{ratio}}, or none"
    )
