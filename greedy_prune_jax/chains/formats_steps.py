"""Rows whose chains come with labels: of steps, of sentences, or of generations."""

import re
from collections.abc import Iterator

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.formats_reply import (
  chain_of_reply,
  gold,
  split_reply,
  whole_reply,
)
from greedy_prune_jax.chains.question_sets import rest
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record


def parse_openr1(row: Record) -> Iterator[Chain]:
  """A row of OpenR1-Math: those of its generations that were found right.

  math-verify found most of them so, and a Llama model as judge some that it cannot read.

  Source: open-r1/OpenR1-Math-220k, whose `solution` is a human's, and is not read here.
  """
  generations = fields.get_items(row, "generations", str)
  verdicts = [_flags(row, key, len(generations)) for key in _OPENR1_VERDICTS]
  if not any(verdicts):
    raise UserError(
      f"has generations, and under neither {' nor '.join(_OPENR1_VERDICTS)} says which are right"
    )
  complete = _flags(row, "is_reasoning_complete", len(generations))
  chosen = [
    i
    for i in range(len(generations))
    if any(flags and flags[i] for flags in verdicts) and (not complete or complete[i])
  ]
  if not chosen:
    raise UserError(
      f"none of its {len(generations)} generations is verified; its human solution is read with "
      f"--config.columns.question=problem --config.columns.response=solution"
    )
  used = ("problem", "solution", "answer", "generations", "messages", "uuid")
  labels = [key for key in row if key.startswith(("correctness_", "is_reasoning_complete"))]
  for i in chosen:
    yield chain_of_reply(
      generations[i],
      question=fields.get_text(row, "problem"),
      target=gold(row, "answer"),
      part=str(i),
      extra=rest(row, *used, *labels, "finish_reasons", "llama_verification"),
    )


_OPENR1_VERDICTS = ("correctness_math_verify", "correctness_llama")


def _flags(row: Record, key: str, number: int) -> tuple[bool | None, ...]:
  """The flags of a row's generations; empty where it has none."""
  if row.get(key) is None:
    return ()
  flags = fields.get_items(row, key, bool, type(None))
  if len(flags) != number:
    raise UserError(
      f'"generations" has {number} items and "{key}" {len(flags)}; they must have as many'
    )
  return flags


def parse_prm800k(row: Record) -> Iterator[Chain]:
  """A row of PRM800K: a solution in steps, each with a rating (1, 0, -1) or None.

  Other steps that were rated in place of one are kept with their ratings, a list a step.

  In phase 2 the solution is whole and rated up to its first error; in phase 1 it is made of the
  steps that the labeler chose.
  """
  question = fields.get(row, "question", dict)
  labelled = fields.get_items(fields.get(row, "label", dict), "steps", dict)
  steps, ratings, others = [], [], []
  for step in labelled:
    text, rating = _chosen_step(step)
    steps.append(text)
    ratings.append(rating)
    others.append([c for c in step.get("completions") or () if c.get("text") != text])
  whole = question.get("pre_generated_steps")
  if whole is not None:
    steps = list(fields.get_items(question, "pre_generated_steps", str))
    ratings = [*ratings[: len(steps)], *[None] * (len(steps) - len(ratings))]
  yield _stepwise(
    steps,
    question=fields.get_text(question, "problem"),
    target=gold(question, "ground_truth_answer"),
    extra=rest(row, "question", "label") | {"step_labels": ratings, "other_steps": others},
  )


def _chosen_step(step: Record) -> tuple[str, int | None]:
  """Text and rating of the step that the labeler chose, or wrote."""
  if (written := step.get("human_completion")) is not None:
    return fields.get_text(written, "text") if isinstance(written, dict) else written, None
  completions = fields.get_items(step, "completions", dict)
  chosen = step.get("chosen_completion") or 0  # none: all were bad, and the solution ends
  if type(chosen) is not int or not 0 <= chosen < len(completions):
    raise UserError(f'"chosen_completion" is {chosen!r} of {len(completions)} completions')
  rating = completions[chosen].get("rating")
  if rating is not None and type(rating) is not int:
    raise UserError(f'"rating" is {rating!r}; expected -1, 0, 1 or null')
  return fields.get_text(completions[chosen], "text"), rating


def parse_processbench(row: Record) -> Iterator[Chain]:
  """A row of ProcessBench: steps, and in `label` the first wrong one, from 0 on; -1: none."""
  steps = list(fields.get_items(row, "steps", str))
  label = fields.get(row, "label", int)
  if not -1 <= label < len(steps):
    raise UserError(f'"label" is {label}; expected -1 to {len(steps) - 1}')
  yield _stepwise(
    steps,
    question=fields.get_text(row, "problem"),
    target=None,
    extra=rest(row, "problem", "steps", "label") | {"first_wrong_step": label},
  )


def _stepwise(steps: list[str], *, question: str, target: str | None, extra: Record) -> Chain:
  """A chain of steps, a paragraph each; `steps` in `extra` are what the labels are about."""
  if not steps:
    raise UserError("has no steps")
  text = "\n\n".join(steps)
  before, mark, last = text.rpartition("\n\n# Answer\n\n")  # PRM800K's solutions end so
  reasoning, answer = (before, mark + last) if before.strip() else split_reply(text)
  return Chain(
    id="",
    question=question,
    reasoning=reasoning,
    answer=answer,
    target=target,
    extra=extra | {"steps": steps},
  )


def parse_thought_anchors(row: Record) -> Iterator[Chain]:
  """A problem's folder of thought-anchors: the chain, and its chunks with their importances.

  Source: Thought Anchors, arXiv 2506.19143. The row has the folder's files under their names.
  """
  solution = fields.get(row, "base_solution.json", dict)
  problem = fields.get(row, "problem.json", dict)
  prompt = fields.get_text(solution, "prompt")
  asked, tag, _ = prompt.rpartition("<think>")
  asked = asked if tag else prompt
  question = _ANCHORS_QUESTION.search(asked)
  thinks = "<think>\n" if tag else ""
  extra = rest(problem, "problem", "gt_solution", "gt_answer") | rest(
    solution, "prompt", "solution", "full_cot", "answer"
  )
  if "chunks_labeled.json" in row:
    extra["chunks"] = list(fields.get_items(row, "chunks_labeled.json", dict))
  yield chain_of_reply(
    thinks + fields.get_text(solution, "solution"),
    question=question[1] if question else asked.strip(),
    target=gold(problem, "gt_answer"),
    extra=extra,
  )


_ANCHORS_QUESTION = re.compile(r"Problem: (.*?)\s*Solution:", re.DOTALL)  # behind instructions


def parse_s3_cot(row: Record) -> Iterator[Chain]:
  """A row of S3-CoT: chains of several lengths on one question, `chain_0.0`, `chain_-0.1`, ...

  Source: yrdu/S3-CoT-Self-Sampled-Data; the number is the strength of steering.
  """
  strengths = [key.removeprefix("chain_") for key in row if key.startswith("chain_")]
  of_chains = [key for key in row if key.rpartition("_")[2] in strengths]
  for strength in strengths:
    if fields.get_optional_text(row, f"chain_{strength}") is None:
      continue
    yield chain_of_reply(
      fields.get_text(row, f"chain_{strength}"),
      question=fields.get_text(row, "instruction"),
      target=gold(row, "gold_answer"),
      part=strength,
      extra=rest(row, "instruction", "gold_answer", *of_chains)
      | {
        key.rpartition("_")[0]: row[key]
        for key in of_chains
        if key.endswith(f"_{strength}") and not key.startswith("chain_")
      },
    )


def _joined(row: Record, key: str) -> str:
  """The text at a key, which may be a list of them, as in early versions of s1K and s1K-1.1."""
  value = row.get(key)
  if isinstance(value, list):
    value = "".join(fields.get_items(row, key, str))
  return fields.get_text({key: value}, key)


def parse_s1k(thinking: str, attempt: str):
  """Makes the parser of s1K's rows, whose thinking and answer have keys of their own."""

  def parse(row: Record) -> Iterator[Chain]:
    thoughts, said = (_joined(row, key) for key in (thinking, attempt))
    others = [k for k in row if k.endswith(("thinking_trajectory", "thinking_trajectories"))]
    others += [k for k in row if k.endswith(("attempt", "_grade", "_grade_reason"))]
    yield chain_of_reply(
      whole_reply(thoughts, said),
      question=fields.get_text(row, "question"),
      extra=rest(row, "question", "solution", "cot", *others),
    )

  return parse
