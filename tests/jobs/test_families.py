"""Models of every kind through the jobs: sampled, pruned, trained, and pruned again.

What a family computes is held against `transformers` elsewhere, for all of them (docs/models.md);
these are the ones that differ in what jobs do: templates, caches, recurrences, names of weights.
"""

import json

import numpy as np
import pytest
import torch
import transformers

from tests.helpers import thinking_templates as forms
from tests.helpers import tiny_jobs, tiny_runs

THOUGHT, SAID = "3 + 4 = 7 clips.\nSo 7.", '{"answer": "7"}'
THINKING = tiny_runs.CHAINS[0] | {"reasoning": f"<think>\n{THOUGHT}\n</think>\n\n", "answer": SAID}
PLAIN = tiny_runs.TEMPLATE
RECURRENT = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
# Of those that need more than one layer to have one of each kind, or a template of their own.
CASES = {
  "granitemoehybrid": (PLAIN, {"layer_types": ["full_attention"]}),
  "qwen3_5_moe_text": (PLAIN, RECURRENT),
  "qwen3_next": (PLAIN, RECURRENT),
  "lfm2": (PLAIN, {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}),
  "gpt_oss": (forms.HARMONY, {"num_hidden_layers": 2}),  # one layer with a window and one without
  "qwen3_moe": (PLAIN, {"num_hidden_layers": 2, "mlp_only_layers": [0]}),
  # Keys and values of the last two layers, one with a window, are the first ones'.
  "gemma4_text": (
    PLAIN,
    {
      "num_hidden_layers": 4,
      "layer_types": ["sliding_attention", "full_attention"] * 2,
      "num_kv_shared_layers": 2,
    },
  ),
  "gemma4_text, experts": (
    PLAIN,
    {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
  ),
  # Weights side by side in one tensor; experts; windows in most layers.
  **{family: (PLAIN, {}) for family in ("llama", "phi3", "mixtral", "gemma3_text")},
}


def run(job, workdir, **settings):
  tiny_jobs.run(job, tiny_jobs.config_for(job, **settings), workdir, workdir.parent)


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_sample_prune_and_distill(tmp_path, family):
  template, switches = CASES[family]
  model, _ = tiny_runs.make_model(
    tmp_path / "model", template, family, max_position_embeddings=1024, **switches
  )
  question = {"question": "What is 3 + 4?", "answer": "It is 7.\n#### 7"}
  (tmp_path / "rows.jsonl").write_text(json.dumps(question) + "\n")
  settings = {"questions": f"gsm8k:{tmp_path / 'rows.jsonl'}", "teacher": str(tmp_path / "model")}
  settings |= {"num_questions": 0, "num_samples": 2, "max_new_tokens": 12, "batch_size": 2}
  run("sample", tmp_path / "sampled", **settings)
  (record,) = (tmp_path / "sampled" / "samples").glob("*.jsonl")
  samples = json.loads(record.read_text())["samples"]
  assert len(samples) == 2
  assert samples[0] != samples[1]

  thinks = template is forms.HARMONY
  chains = tiny_runs.write_chains(
    tmp_path / "chains.jsonl", [THINKING if thinks else tiny_runs.CHAINS[0]]
  )
  ways = {"chains": str(chains), "keep_ratios": (0.5,), "num_chains": 0}
  run("prune", tmp_path / "pruned", pruner=str(tmp_path / "model"), **ways)
  (pruned,) = tiny_runs.records(tmp_path / "pruned").values()
  assert pruned.get("thinking_form") == ("harmony" if thinks else None)
  tokens = len(pruned["reasoning_ids"])
  assert len(pruned["deletion_order"]) == tokens - tokens // 2
  assert np.isfinite(pruned["nll"]["joint"]).all()

  student = {"student": str(tmp_path / "model"), "chains": str(tmp_path / "pruned")}
  student |= {"keep_ratios": (0.5,), "steps": 2, "epochs": 0.0, "num_validation": 0}
  run("distill", tmp_path / "student", batch_size=1, learning_rate=1e-2, **student)
  export = tmp_path / "student" / "export"
  again = transformers.AutoModelForCausalLM.from_pretrained(export)
  assert type(again) is type(model)
  trained = again.state_dict()
  changed = {n for n, x in model.state_dict().items() if not torch.equal(x, trained[n].to(x.dtype))}
  assert len(changed) > len(trained) / 2

  run("prune", tmp_path / "again", pruner=str(export), **ways)
  (record,) = tiny_runs.records(tmp_path / "again").values()
  assert record["nll"]["joint"][0] < pruned["nll"]["joint"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("ranking", "family", "layers"),
  [
    ("gradient", "qwen3_next", "Gated DeltaNet"),
    ("attention", "qwen3_5_moe_text", "Gated DeltaNet"),
    ("gradient", "lfm2", "short convolutions"),
  ],
)
def test_recurrent_layers_have_no_such_ranking(start, tmp_path, ranking, family, layers):
  tiny_runs.make_model(tmp_path / "model", PLAIN, family, **CASES[family][1])
  job = start(pruner=tmp_path / "model", ranking=ranking)
  assert job.wait() == 1
  assert f"cannot use a {family} model" in job.stderr
  assert f"it has recurrent layers ({layers}), which are not supported there" in job.stderr
  assert "Traceback" not in job.stderr
  assert job.stderr.count("not supported there") == 1, "said once, before any chain"
