"""Runs of the prune job that take seconds: a tiny random model, a few short chains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.reference import tiny_config, tiny_model
from tests.helpers.tokenizers_for_tests import byte_level

TEMPLATE = (
  "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CHAINS = [
  {
    "id": f"chain {i}",
    "question": "How many clips did Natalia sell?",
    "reasoning": reasoning,
    "answer": '{"answer": "7"}',
  }
  for i, reasoning in enumerate(
    ["3 + 4 = 7 clips.\n", "Step by step: 24 and 48, so 7.\n", "She sold 7 in May.\n"]
  )
]
CONTEXT = 192


def make_model(
  folder: Path, chat_template: str | None = TEMPLATE, family: str = "llama", **switches: Any
):
  """Writes a model with one layer and its tokenizer; returns both as transformers has them."""
  tokenizer = byte_level(chat_template)
  sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "max_position_embeddings": CONTEXT}
  model = tiny_model(tiny_config(family, **(sizes | switches)))
  model.save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  return model, tokenizer


def make_longrope_model(folder: Path):
  """Like `make_model`: a Phi-3 whose ropes turn otherwise in texts of more than 128 tokens."""
  rope = {"rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0}
  rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 9.0, 27.0]}
  trained = {"original_max_position_embeddings": 128}
  changes = {"max_position_embeddings": 512, "rope_parameters": rope | trained} | trained
  return make_model(folder, family="phi3", **changes)


def write_chains(path: Path, lines: list[dict | str] | None = None) -> Path:
  """Writes chains, one a line; strings are written as they are."""
  lines = CHAINS if lines is None else lines
  path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
  return path


def records(workdir: Path) -> dict[str, dict]:
  """Records of a run by chain id, without the times that it took; no id may come twice."""
  lines = [
    json.loads(line)
    for path in sorted((workdir / "pruned").glob("*.jsonl"))
    for line in path.read_text().splitlines()
  ]
  found = {line["id"]: line for line in lines}
  assert len(found) == len(lines)
  for line in lines:
    assert line.pop("seconds") >= 0
  return found


def assert_same_records(found: dict[str, dict], whole: dict[str, dict]) -> None:
  """Records found in another way: by a run that went on, or in other batches.

  What is run again counts again, and blocks of other slots round differently.
  """
  for key, record in found.items():
    record, expected = dict(record), dict(whole[key])
    assert record.pop("positions_scored") > 0 < expected.pop("positions_scored")
    for name, values in expected.pop("nll").items():
      nll = np.array(record["nll"][name], float)
      np.testing.assert_allclose(nll, np.array(values, float), atol=5e-6)
    del record["nll"]
    trust, expected_trust = (_numbers(x.pop("trust", {})) for x in (record, expected))
    assert trust == pytest.approx(expected_trust, rel=1e-2, abs=1e-5)
    assert record == expected


def _numbers(trust: dict[str, Any]) -> dict[str, Any]:
  """Numbers of a screened search's own report, but for positions."""
  audit = {name: x for name, x in trust.get("audit", {}).items() if name != "positions_exact"}
  return {name: x for name, x in trust.items() if name != "audit"} | audit


def skipped(workdir: Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / "skipped.jsonl").read_text().splitlines()]
