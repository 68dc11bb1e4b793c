"""The real chains with hand labels, where `../shared/data` is beside the checkout."""

import json
from pathlib import Path

import pytest

from greedy_prune_jax.chains.categories import Labels, parse_category
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.errors import UserError

HAND_LABELS = Path(__file__).parent / "hand_labels.json"
DATA = Path(__file__).parents[3] / "shared" / "data"


def hand_labelled() -> list[tuple[list[str], int, Labels]]:
  """Tokens of each hand-labelled chain, the first labelled position, and the labels from there."""
  if not DATA.is_dir():
    pytest.skip(f"needs the real chains in {DATA}")
  try:
    from greedy_prune_jax.models.pretrained import load_tokenizer

    tokenizer = load_tokenizer("smollm2-135m-instruct")
  except UserError as error:
    pytest.skip(str(error))
  entries = json.loads(HAND_LABELS.read_text())["chains"]
  found = {}
  for source in sorted({entry["source"] for entry in entries}):
    wanted = {entry["id"] for entry in entries if entry["source"] == source}
    for chain in read_chains(str(DATA / source), on_bad=lambda bad: None):
      if chain.id in wanted:
        encoding = tokenizer(chain.reasoning, add_special_tokens=False, return_offsets_mapping=True)
        found[chain.id] = [chain.reasoning[a:b] for a, b in encoding["offset_mapping"]]
  assert all(len(found[entry["id"]]) == entry["num_tokens"] for entry in entries)
  return [
    (found[e["id"]], e["first_position"], tuple(parse_category(name) for name in e["labels"]))
    for e in entries
  ]
