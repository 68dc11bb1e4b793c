"""Token positions that a search runs, before it is made."""

from collections.abc import Iterator

from greedy_prune_jax.scoring.racing import (
  ENDED_OF_LONG,
  LONG_RUN,
  LOOKED_AT,
  SECOND_LOOK,
  most_in_race,
)
from greedy_prune_jax.scoring.stream import RUN_STARTS
from greedy_prune_jax.search.host import SearchSettings
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import mean_window, window_positions

# Candidates that run to their ends at a step for each nat of margin, beside one for each deletion:
# SmolLM2-135M ran 2.3 to 2.8 on chains of 41 to 943 tokens at 1 nat. (At 2, 2.7 to 3.4: less than
# this says, since candidates run in parts.)
_ENDED_PER_NAT = 1.7


def first_step_positions(
  num_reasoning: float, num_units: float, num_answer: int, settings: SearchSettings
) -> float:
  """Positions of a step that knows nothing yet, beside the prompt and the text."""
  whole = num_units * ((num_reasoning - 1) / 2 + num_answer - 1)
  if settings.screen is None:
    return whole
  window = mean_window(num_reasoning, settings.screen.window)
  windows = num_units * (window + _tail(num_answer, settings))
  return min(windows + _ended_positions(num_reasoning, num_units, num_answer, settings), whole)


def step_positions(
  num_reasoning: float, num_units: float, num_answer: int, settings: SearchSettings
) -> float:
  """Positions of a later step, about: what runs again of text and candidates.

  Deletions are taken to fall anywhere with equal chances. Then two thirds of what is reasoning in
  the candidates' suffixes run again, all of the answers, and half of the text where the candidate
  that was deleted does not show it.
  """
  screen, deletions = settings.screen, settings.deletions_per_step
  shown = settings.objective == "joint" and deletions == 1
  text = 2 if shown else num_reasoning / 2 + num_answer
  share = 1 / 3 if deletions == 1 else 1 / 2
  suffixes = num_units * ((num_reasoning - 1) * share + num_answer - 0.5)
  if screen is None:
    return text + suffixes
  windows = window_positions(num_reasoning, screen, _tail(num_answer, settings), deletions)
  ended = _ended_positions(num_reasoning, num_units, num_answer, settings)
  return text + min(windows + ended, suffixes)  # what a race runs it does not run again


def _ended_positions(
  num_reasoning: float, num_units: float, num_answer: int, settings: SearchSettings
) -> float:
  """Positions of the candidates of a race that run to their ends, anywhere in the chain."""
  margin = settings.screen.margin if settings.screen else 0.0
  ended = settings.deletions_per_step + _ENDED_PER_NAT * margin
  if settings.objective == "answer" and margin:
    # Deletions change the few tokens of an answer by less than a usual margin, and nothing shows
    # before the end: all that may enter the race run to their ends.
    ended = most_in_race(settings.deletions_per_step, runs=False)
  return min(ended, num_units) * ((num_reasoning - 1) / 2 + num_answer - 1)


def _tail(num_answer: int, settings: SearchSettings) -> int:
  return num_answer if settings.objective == "answer" else 0


def search_positions(path: PrunePath, settings: SearchSettings) -> int:
  """Positions that a search runs on a chain, about, from the whole of it down to its floor."""
  if settings.by_runs:
    return round(_runs_positions(path, settings))
  num_answer = len(path.segments.answer)
  positions = float(len(path.segments) - 1)
  for index, (tokens, units) in enumerate(_steps(path, settings)):
    of_step = step_positions if index else first_step_positions
    positions += of_step(tokens, units, num_answer, settings)
  return round(positions + path.floor / 2 + num_answer)


# Of a search by runs to each mark, on average: attempts, and candidates that run to their ends for
# each short run. SmolLM2-135M made 4 to 12 runs on chains of 104 to 250 tokens.
_ATTEMPTS, _ENDED = 3, 6


def _runs_positions(path: PrunePath, settings: SearchSettings) -> float:
  """Positions of a search by runs, about: each attempt knows the text, and no estimate."""
  prompt, answer = len(path.segments.prompt), len(path.segments.answer)
  whole = left = len(path.segments.reasoning)
  attempts = _ATTEMPTS
  if settings.max_runs:
    attempts = min(attempts, settings.max_runs.bit_length())
  runs = 2**attempts - 1  # 1, 2, 4, ...
  share, positions = len(path.sizes) / max(whole, 1), 0.0
  for mark in sorted({path.floor, *path.marks}, reverse=True):
    between, width = (left + mark) / 2, (left - mark) / 2
    places = max(between - width, 1)  # a run of many tokens has fewer
    candidates = places * min(share, 1 / max(width // RUN_STARTS, 1))
    if settings.screen is None:
      ended, looks = candidates, 0.0
    else:
      ended, tail = min(_ENDED, candidates), _tail(answer, settings)
      looks = candidates * (mean_window(places, settings.screen.window) + tail)
      if width >= LONG_RUN:
        ended = min(ENDED_OF_LONG + 2 / runs, candidates)  # the two ends, once
        looks += min(LOOKED_AT, candidates) * (SECOND_LOOK + tail)
    suffix = places / 2 + answer
    # Behind a gap the text runs again, and before it what a run would now be followed by.
    of_run = min(looks + ended * suffix, candidates * suffix) + between / 2 + width + answer
    positions += prompt + left + answer + attempts * (left + answer) + runs * of_run
    left = mark
  return positions


def mean_length(path: PrunePath) -> float:
  """Tokens of the text on average over a search, prompt included."""
  return len(path.segments) - (len(path.segments.reasoning) - path.floor) / 2


def _steps(path: PrunePath, settings: SearchSettings) -> Iterator[tuple[float, float]]:
  """Tokens and units at each step, of units of one size."""
  whole = len(path.segments.reasoning)
  most = len(path.sizes)
  units = float(most)
  while whole * units / most > path.floor:
    yield whole * units / most, units
    units -= settings.deletions_per_step
