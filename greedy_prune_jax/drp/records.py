"""The records that stages store of a chain, and the new chain made of one.

A line of `decomposed`, `edited` or `written` holds

    id, chain   the input, whole
    steps       of the thinking: their texts (joined they are it) and skills
    edits       from `edit` on: steps (from 0), action, new text
    text        of `write`: the new thinking
    invented    of `edit` and `write`: numbers in the new thinking that nobody gave it, see
                `invented_numbers`; `edit` of earlier versions lacks it
    failed      null, or the stage and the reason for which the chain stays as it was
    refused     reason and complaint of each reply that this stage refused
    num_tokens  that this stage's replies took, where the teacher tells
    made_by     of each stage its teacher and the version of its prompt; as `served` the model that
                wrote the last reply, where an endpoint says so
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.steps import edited_text, edits_of, steps_of
from greedy_prune_jax.chains.thinking import split_thinking
from greedy_prune_jax.drp.items import Item
from greedy_prune_jax.drp.stages import EDIT, WRITE, Stage
from greedy_prune_jax.runs import records as fields
from greedy_prune_jax.runs.records import Record

RULES = "rules"  # who made steps that no teacher made
KEEP, LEAVE_OUT = ON_FAILURE = ("keep", "leave_out")


def finished_record(
  stage: Stage,
  item: Item,
  teacher: str,
  results: Record | None,
  *,
  refused: Sequence[Record] = (),
  num_tokens: int = 0,
  made_by: Mapping[str, str] = MappingProxyType({}),
) -> Record:
  """The line of a chain that a stage is through with.

  Args:
    results: the keys that the stage found; None: all its replies were refused.
    num_tokens: tokens of all replies.
    made_by: further keys of the stage's `made_by`.
  """
  prompt = None if teacher == RULES else stage.version
  failed = {"stage": stage.name, "reason": refused[-1]["reason"]} if results is None else None
  return {
    "id": item.chain.id,
    "chain": item.chain.to_record(),
    **item.results,
    **(results or {}),
    "failed": failed,
    "refused": list(refused),
    "num_tokens": num_tokens,
    "made_by": {
      **item.made_by,
      stage.name: {"teacher": teacher, "prompt": prompt, **made_by},
    },
  }


def passed_on(record: Record) -> Record:
  """The line of a chain at which an earlier stage failed."""
  return record | {"refused": [], "num_tokens": 0}


def new_chain(record: Record, stage: Stage, on_failure: str) -> Chain | None:
  """The chain that comes of a record of `edit` or `write`.

  Tags of thinking and what stands outside them, system text, question and answer stay.

  Args:
    stage: `EDIT`, whose edited steps are laid end to end, or `WRITE`.
    on_failure: `keep` to keep the text of a chain at which a stage failed; else None is returned
      for it.
  """
  chain = Chain.from_record(record["chain"])
  failed = record["failed"]
  if failed and on_failure == LEAVE_OUT:
    return None
  about: dict[str, Any] = {"failed": failed, "made_by": record["made_by"]}
  reasoning = chain.reasoning
  if not failed:
    before, _, after = split_thinking(reasoning)
    reasoning = before + new_text(record, stage) + after
    about["invented"] = record.get("invented")
  return dataclasses.replace(
    chain, reasoning=reasoning, extra={**chain.extra, "drp": {"stage": stage.name, **about}}
  )


def new_text(record: Record, stage: Stage) -> str:
  """The thinking that a record of `edit` or `write` has come to."""
  if stage is WRITE:
    return fields.get_text(record, "text")
  assert stage is EDIT
  return edited_text(steps_of(record), edits_of(record))
