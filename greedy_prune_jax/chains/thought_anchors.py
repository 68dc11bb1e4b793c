"""Chains of the project Thought Anchors (arXiv 2506.19143) with the importances of their sentences.

A problem is a folder with `problem.json`, `base_solution.json` (`prompt`, and `solution`: thinking,
closing tag, answer) and `chunks_labeled.json`: the sentences of the thinking, with importances from
rollouts. The chain's key `importances` holds `[start, end, value]` for each sentence: characters of
the reasoning.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.thinking import FORMS
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.files import read_bytes
from greedy_prune_jax.runs.json_reader import MOST_BYTES, parse_json

IMPORTANCES = "importances"  # key of a chain's record
MEASURE = "counterfactual_importance_kl"

_FORM = FORMS[0]  # <think>
_QUESTION = re.compile(r"Problem: (.*?)\s*Solution:", re.DOTALL)


def read_problems(folder: Path, measure: str = MEASURE) -> Iterator[Chain]:
  """The chains of all problems below a folder, ordered by path, which is also their id.

  Args:
    folder: holds problems at any depth.
    measure: the importance to read, a key of the sentences.

  Raises:
    UserError: there is none, or one is of another form; the message names the file.
  """
  files = sorted(folder.rglob("chunks_labeled.json"))
  if not files:
    raise UserError(f"{folder} holds no chunks_labeled.json; expected folders of Thought Anchors")
  return (_read_problem(path.parent, folder, measure) for path in files)


def _read_problem(folder: Path, root: Path, measure: str) -> Chain:
  path = folder / "base_solution.json"
  try:
    solution = _read(path, dict)
    thinking, tag, answer = fields.get_text(solution, "solution").partition(_FORM.closing)
    question = _QUESTION.search(fields.get_text(solution, "prompt"))
    if not tag or question is None:
      raise UserError(
        f'expected "Problem: ... Solution:" in "prompt", and {_FORM.closing} in "solution"'
      )
    path = folder / "chunks_labeled.json"
    reasoning = thinking.strip()
    spans = list(_sentences(reasoning, _read(path, list), measure))
    path = folder / "problem.json"
    target = fields.get_optional_text(_read(path, dict), "gt_answer")
  except UserError as error:
    raise UserError(f"{path}: {error}") from error
  return Chain(
    id=folder.relative_to(root).as_posix(),
    question=question[1],
    reasoning=reasoning,
    answer=thinking[len(thinking.rstrip()) :] + tag + answer,
    target=target,
    thinking_form=_FORM.name,
    extra={IMPORTANCES: spans},
  )


def _read(path: Path, kind: type) -> Any:
  found = parse_json(read_bytes(path, MOST_BYTES))
  if not isinstance(found, kind):
    raise UserError(f"expected {'an object' if kind is dict else 'a list'}")
  return found


def _sentences(
  reasoning: str, chunks: Sequence[Any], measure: str
) -> Iterator[tuple[int, int, float]]:
  """The place of each sentence, found in the order given, whatever white space it is cut with."""
  places = [at for at, character in enumerate(reasoning) if not character.isspace()]
  packed = "".join(reasoning[at] for at in places)
  start = 0
  for number, chunk in enumerate(chunks):
    if not isinstance(chunk, dict):
      raise UserError(f"sentence {number} is no object")
    text = "".join(fields.get_text(chunk, "chunk").split())
    found = packed.find(text, start)
    if found < 0:
      raise UserError(f"sentence {number} is not in the thinking behind the one before it")
    start = found + len(text)
    yield places[found], places[start - 1] + 1, float(fields.get(chunk, measure, float, int))
