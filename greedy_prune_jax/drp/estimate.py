"""Estimate of a run's requests, and of the tokens that they read and write, before it asks."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from greedy_prune_jax.chains.steps import SHORTEN, Edit
from greedy_prune_jax.drp.items import Item, rule_steps
from greedy_prune_jax.drp.prompts import stage_prompt
from greedy_prune_jax.drp.records import RULES
from greedy_prune_jax.drp.run import items_to_do
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.drp.stages import DECOMPOSE, EDIT, WRITE, Stage
from greedy_prune_jax.models.pretrained import load_tokenizer
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.settings import ENDPOINT

# Of a chain that DRP shortened: 328 of 917 tokens, on GSM8K (arXiv 2505.13975).
_SHORTENED = 0.36
# Of our prompts on GSM8K solutions, by the tokenizer of SmolLM2: see the README. Endpoints do not
# lend theirs.
_BYTES_PER_TOKEN = 3.5
_TYPICAL_SKILL = "multiplication"

CountTokens = Callable[[str], int]


class StageCost(NamedTuple):
  """Requests, and tokens read and written, that a stage will take if every first reply passes."""

  stage: str
  requests: int
  read: int
  written: int


def estimate_cost(
  settings: DrpSettings, items: Mapping[str, Item], workdir: Workdir, count_tokens: CountTokens
) -> list[StageCost]:
  """Requests and tokens that are left to each stage of a run.

  Where a stage before has not come to a chain, its result is guessed: steps by rules, each of them
  shortened like DRP's chains in its paper. Chains at which a stage has failed ask for nothing.
  """
  costs, alive = [], dict.fromkeys(items, True)
  guessed = dict(items)
  for stage in settings.chosen_stages:
    requests = read = written = 0
    for item, before in items_to_do(stage, items, settings, workdir):
      item_id = item.chain.id
      if before is not None:
        alive[item_id] = not before["failed"]
        if alive[item_id]:
          guessed[item_id] = item.with_results(before)
      if not alive[item_id]:
        continue
      item = guessed[item_id]
      if stage is DECOMPOSE and settings.splitter == RULES:
        guessed[item_id] = item.with_results(rule_steps(item) | {"made_by": {}})
        continue
      item, reply = _guess(stage, item)
      requests += 1
      read += count_tokens(stage_prompt(stage.name, stage.values(item)))
      written += count_tokens(json.dumps(reply, ensure_ascii=False))
      guessed[item_id] = item
    costs.append(StageCost(stage.name, requests, read, written))
  return costs


def _guess(stage: Stage, item: Item) -> tuple[Item, Record]:
  """The item as a stage will leave it, and a reply of about the length that it will have."""
  if not item.steps:
    item = item.with_results(rule_steps(item) | {"made_by": {}})
  if stage is DECOMPOSE:
    steps = [{"text": step.text.strip(), "skill": _TYPICAL_SKILL} for step in item.steps]
    return item, {"steps": steps}
  if not item.edits:
    edits = [
      Edit((i,), SHORTEN, step.text[: max(1, round(_SHORTENED * len(step.text)))])
      for i, step in enumerate(item.steps)
    ]
    item = dataclasses.replace(item, edits=tuple(edits))
  if stage is EDIT:
    return item, {"edits": [edit.to_record() for edit in item.edits]}
  assert stage is WRITE
  text = item.thinking.text
  return item, {"chain": f"{text[: round(_SHORTENED * len(text))]}\n{item.chain.answer}"}


def token_counter(settings: DrpSettings) -> CountTokens:
  """Counts by the teacher's tokenizer, or from the bytes where it is behind an endpoint."""
  if settings.teacher == ENDPOINT or not settings.asks:
    return lambda text: round(len(text.encode()) / _BYTES_PER_TOKEN)
  tokenizer = load_tokenizer(settings.teacher)
  return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
