"""Which compiled program a chain runs in, how far, and how much work that is, on the host.

Everything here depends on the chain as it stands, not on how it got there, so that a resumed run
goes through the same programs as one that was never stopped.
"""

from collections.abc import Callable, Sequence

import numpy as np

from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.sizes import bucket
from greedy_prune_jax.scoring.objectives import Objective
from greedy_prune_jax.scoring.packing import num_rows, pair_width
from greedy_prune_jax.scoring.scorer import AttentionKind, Program

# A row is at most an eighth (or so many slots) wider than it needs to be, and a multiple of 8: CPUs
# multiply odd widths at half the speed. Where rows take little time (on an accelerator, and in a
# screened search, which runs few) compiling a program for each 8 tokens would take longer than what
# it saves.
FINE, COARSE = 8, 32
_PROMPT_MULTIPLE = 64


def round_up(value: int, multiple: int) -> int:
  """The least multiple that is not below `value`."""
  return -(-value // multiple) * multiple


def prompt_capacity(num_prompt: int) -> int:
  """The size of arrays for prompts of so many tokens."""
  return bucket(num_prompt, _PROMPT_MULTIPLE)


def finest_width(platform: str, *, screened: bool) -> int:
  """`FINE` or `COARSE`, whichever suits the search and the device."""
  return COARSE if screened or platform != "cpu" else FINE


def _spacing(width: int, finest: int) -> int:
  return max(finest, 2 ** max(max(width - 1, 1).bit_length() - 4, 0))


def bucket_width(needed: int, finest: int = FINE) -> int:
  """The width of the bucket for rows of `needed` slots: 8, 16, ... 128, 144, ... 256, 288, ...

  Args:
    needed: slots.
    finest: least distance between two buckets, and width of the narrowest: `FINE` or `COARSE`.
  """
  return round_up(needed, _spacing(needed, finest))


def narrower_bucket(width: int, finest: int = FINE) -> int:
  """The width of the next bucket below a bucket's width; 0 below the last."""
  return width - _spacing(width, finest)


def step_positions(num_reasoning: int, num_answer: int, unit_sizes: Sequence[int] | None) -> int:
  """Token positions that one exact step runs: the text once, and each candidate's suffix."""
  n, a = num_reasoning, num_answer - 1
  if unit_sizes is None:
    return n + a + n * (n - 1) // 2 + n * a
  stops = np.cumsum(np.asarray(unit_sizes))
  return n + a + int((n - stops + a).sum())


def bucket_floor(width: int, num_answer: int, finest: int = FINE) -> int:
  """Reasoning tokens at which a chain is through with a bucket: it then fits the next one below."""
  floor = narrower_bucket(width, finest)
  tokens = max(floor - 2 * (num_answer - 1) + 1, 0)
  while tokens and pair_width(tokens, num_answer) > floor:
    tokens -= 1
  return tokens


def affordable_floor(
  num_reasoning: int, floor: int, positions: float, cost: Callable[[int], float], size: int = 1
) -> int:
  """Reasoning tokens that are left when `positions` have been run: at least one step down.

  Args:
    num_reasoning: tokens now.
    floor: tokens that are left in any case.
    positions: to run.
    cost: positions that it takes to delete a unit of so many tokens.
    size: tokens of a unit.
  """
  left = num_reasoning
  while left > floor and (left == num_reasoning or positions > 0):
    positions -= cost(left)
    left -= size
  return max(left, floor)


def text_capacity(width: int, num_answer: int) -> int:
  """Tokens of reasoning and answer that fit a bucket, and one more: no index is past them."""
  # n + A is at most width + 3 - A; the answer is rounded down so that fewer sizes are compiled.
  return round_up(width + 4 - _rounded_down(num_answer), FINE)


def _rounded_down(num_answer: int) -> int:
  return max(num_answer // FINE * FINE, 1)


def plan_program(
  *,
  width: int,
  num_prompt: int,
  num_answers: Sequence[int],
  block_positions: int,
  objective: Objective,
  token_units: bool,
  attention: AttentionKind = "xla",
  num_units: int = 0,
  finest: int = FINE,
) -> Program:
  """The program of a bucket.

  Args:
    width: of the bucket.
    num_prompt: most prompt tokens in the batch.
    num_answers: answer tokens of each chain of the batch.
    block_positions: positions that should go through the model at once, over the whole batch.
    objective: what is scored.
    token_units: see `Program`.
    attention: see `Program`.
    num_units: most units of a chain, where units are not tokens.
    finest: see `bucket_width`.
  """
  text = text_capacity(width, min(num_answers))
  if token_units:
    # The answer counts rounded down, as above.
    shortest = _rounded_down(min(num_answers))
    most, least = width + 3 - 2 * shortest, bucket_floor(width, shortest, finest)
    rows = [num_rows(n) for n in range(most, min(least, most - 1), -1)]
  else:
    # Powers of two, so that few programs are compiled; a row holds a unit's suffix or more.
    rows = [2 ** max(num_units - 1, 1).bit_length()]
  wanted = min(block_positions / width / len(num_answers), rows[0])
  return Program(
    width=width,
    text=text,
    prefix=prompt_capacity(num_prompt) + text,
    answer=round_up(max(num_answers), FINE) if objective == "answer" else 0,
    block_rows=_block_rows(rows, wanted),
    objective=objective,
    token_units=token_units,
    attention=attention,
  )


def _block_rows(rows: Sequence[int], wanted: float) -> int:
  """Rows of a block: near what is wanted, such that a bucket's steps leave few of them empty.

  Args:
    rows: rows that each step of the bucket fills.
    wanted: rows that make a product of the wanted size.
  """

  def padded(block: int) -> float:
    # Each block costs as much as a tenth of the wanted one beside its rows.
    return sum(-(-r // block) * (block + wanted / 10) for r in rows)

  choices = range(max(1, int(wanted * 0.6)), max(1, int(wanted * 1.5)) + 1)
  return min(choices, key=padded)


def bytes_per_position(config: ModelConfig, prefix: int, width: int, split: int = 1) -> int:
  """Estimate of the memory that one position of a block takes while a layer runs, in bytes.

  On each of the `split` devices that heads and feed-forward are split over.
  """
  heads = 4 * config.num_heads * config.head_dim + 3 * config.num_heads * (prefix + width)
  return 4 * (6 * config.model_dim + (3 * config.mlp_dim + heads) // split)
