"""Skill steps as units of the prune job: those that a drp run has stored, or steps by rules."""

from collections.abc import Callable, Sequence

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.step_splitter import split_steps
from greedy_prune_jax.chains.steps import DECOMPOSED, read_finished, steps_of
from greedy_prune_jax.chains.thinking import split_thinking
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.search.units import sizes_between

SKILL_STEP = "skill_step"  # the unit's name

UnitSizes = Callable[[Chain, Sequence[str]], tuple[int, ...]]


def skill_step_sizes(stored: str) -> UnitSizes:
  """Makes the function from a chain and the texts of its tokens to the sizes of its steps.

  Args:
    stored: the workdir of a drp run with steps; empty: steps are made by rules.

  Raises:
    UserError: the workdir has no steps. What is returned raises one where it has none of a chain.
  """
  steps = {}
  if stored:
    steps = {
      chain_id: [step.text for step in steps_of(record)]
      for chain_id, record in read_finished(user_path(stored), DECOMPOSED).items()
      if not record["failed"]
    }

  def sizes(chain: Chain, tokens: Sequence[str]) -> tuple[int, ...]:
    if stored and chain.id not in steps:
      raise UserError(
        f"chain {chain.id}: {stored} has no steps of it; run the stage decompose of the job drp on "
        "the same chains, or leave out chains at which it failed by on_bad_chain=skip"
      )
    return sizes_between(step_starts(chain, steps.get(chain.id)), tokens)

  return sizes


def step_starts(chain: Chain, steps: Sequence[str] | None) -> list[int]:
  """Starts of a chain's steps in its reasoning.

  What stands before and behind its thinking, tags included, are units too; white space there goes
  with the step that it is next to. Spaces between two steps begin the second, as they begin its
  first word's token; the end of a line belongs to the step that it ends.

  Args:
    steps: steps of its thinking; None: by rules.

  Raises:
    UserError: the steps are not those of the chain.
  """
  before, text, after = split_thinking(chain.reasoning)
  steps = split_steps(text) if steps is None else steps
  if "".join(steps) != text:
    raise UserError(
      f"chain {chain.id}: the steps that are stored for it are not those of its reasoning; "
      "expected steps of the same chain"
    )
  starts, end, spaces = [], len(before), 0
  for step in steps:
    starts.append(end - spaces)
    end += len(step)
    spaces = len(step) - len(step.rstrip(" \t"))
  if not before.strip():
    starts[0] = 0
  else:
    starts.insert(0, 0)
  return [*starts, end] if after.strip() else starts
