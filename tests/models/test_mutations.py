"""Model files with random changes: each loads, or ends in an error that names the file."""

import json
import random
import shutil
import struct

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.gguf_tokenizer import gguf_stop_ids, load_gguf_tokenizer
from greedy_prune_jax.models.hf_config import read_hf_config
from greedy_prune_jax.models.pretrained import load_model
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import tiny_config, tiny_model

pytestmark = pytest.mark.slow

_FAMILIES = ["llama", "mistral", "qwen3", "gemma2", "gemma3_text", "gemma4_text, experts", "lfm2"]
_HOSTILE = [
  *(
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    2**31,
    2**63,
    10**9,
    10**30,
    0.0,
    0.5,
    -1.0,
    1e-300,
    1e300,
  ),
  *(
    float("nan"),
    float("inf"),
    "",
    "x",
    "4",
    "\x00",
    [],
    [1],
    ["full_attention"],
    [[]],
    {},
    {"a": 1},
  ),
]
_SWA = [f"{key}_swa" for key in ("attention.key_length", "attention.value_length")]
_NEWER = {  # keys of GGUF files that other families have not
  "lfm2": ["shortconv.l_cache", "attention.causal"],
  "gemma4_text": [
    *_SWA,
    "attention.shared_kv_layers",
    "embedding_length_per_layer_input",
    "rope.dimension_count_swa",
  ],
  "qwen3_5_moe_text": [
    *(f"ssm.{x}" for x in ("inner_size", "state_size", "group_count", "time_step_rank")),
    *("ssm.conv_kernel", "full_attention_interval", "attention.recurrent_layers"),
    *("nextn_predict_layers", "expert_used_count", "expert_shared_feed_forward_length"),
  ],
}
_ROPE = {
  "rope_type": "longrope",
  "factor": 4.0,
  "short_factor": [1.0, 1.1, 1.3, 2.0],
  "long_factor": [1.0, 2.0, 3.0, 4.0],
  "original_max_position_embeddings": 16,
  "rope_theta": 100.0,
}


def _tolerate(load, path):
  """Runs a reader, of which an error must be the user's and name the file; whether it had one."""
  try:
    load()
  except UserError as error:
    said = str(error)
  else:
    return False
  assert str(path) in said, said
  return True


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
  folder = tmp_path_factory.mktemp("seeds")
  for family in _FAMILIES:
    rope = {"rope_parameters": _ROPE} if family == "llama" else {}
    model = tiny_model(tiny_config(family, **rope))
    model.save_pretrained(folder / family)
    if not rope:
      write_gguf(folder / f"{family}.gguf", model) if family != "mistral" else None
  write_gguf(folder / "llama.gguf", tiny_model(tiny_config("llama")), metadata=_tokenizer())
  return folder


def _tokenizer():
  tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
  return {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 2,
    "rope.freq_base": 100.0,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
  }


def _mutated(values, chance):
  """A copy of a JSON object with one to three values changed, taken away or put elsewhere."""
  values = json.loads(json.dumps(values))
  for _ in range(chance.randint(1, 3)):
    place = values
    inner = [v for v in values.values() if isinstance(v, dict)]
    if inner and chance.random() < 0.4:
      place = chance.choice(inner)
    key = chance.choice(list(place) or ["a"])
    if chance.random() < 0.1:
      place.pop(key, None)
    elif chance.random() < 0.1:
      place[key] = chance.choice(list(place.values()))
    else:
      place[key] = chance.choice(_HOSTILE)
  return values


@pytest.mark.parametrize("family", _FAMILIES)
def test_configs(family, seeds, tmp_path):
  chance = random.Random(family)
  values = json.loads((seeds / family / "config.json").read_text())
  values |= {"is_causal": True, "quantization_config": None}
  path = tmp_path / "config.json"
  shutil.copy(seeds / family / "model.safetensors", tmp_path)
  refused = 0
  for at in range(100):
    path.write_text(json.dumps(_mutated(values, chance)))
    if _tolerate(lambda: read_hf_config(path), path):
      refused += 1
    elif at % 5 == 0:
      _tolerate(lambda: load_model(str(tmp_path), "float32"), tmp_path)
  assert 20 < refused < 95


def _load_gguf(path):
  load_model(str(path), "float32")


def _load_tokenizer(path):
  gguf_stop_ids(GgufFile(path))
  load_gguf_tokenizer(path)


def _changed_bytes(data, chance, end):
  """A few numbers of a header overwritten, or the file cut."""
  data = bytearray(data)
  for _ in range(chance.randint(1, 3)):
    value = chance.choice([0, 1, 2, 31, 255, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1, 10**9])
    code = chance.choice("BIQ")
    at = chance.randrange(4, end)
    data[at : at + struct.calcsize(code)] = struct.pack(
      "<" + code, value % 256 ** struct.calcsize(code)
    )
  return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


@pytest.mark.parametrize("load", [_load_gguf, _load_tokenizer])
def test_bytes_of_gguf_headers(load, seeds, tmp_path):
  chance = random.Random(load.__name__)
  data = (seeds / "llama.gguf").read_bytes()
  end = data.rindex(b"weight") + 40  # of the header
  path = tmp_path / "model.gguf"
  refused = 0
  for _ in range(200):
    path.write_bytes(_changed_bytes(data, chance, end))
    refused += _tolerate(lambda: load(path), path)
  assert refused > 60


@pytest.mark.parametrize(
  "family", ["llama", "gemma2", "gemma3_text", "gemma4_text", "qwen3_5_moe_text", "lfm2"]
)
def test_values_of_gguf_metadata(family, seeds, tmp_path):
  chance = random.Random(family)
  model = tiny_model(tiny_config(family))
  keys = ["block_count", "context_length", "embedding_length", "feed_forward_length"]
  keys += ["attention.head_count", "attention.head_count_kv", "attention.key_length"]
  keys += ["attention.layer_norm_rms_epsilon", "attention.sliding_window", "rope.freq_base"]
  keys += ["attention.sliding_window_pattern", "rope.scaling.type", "rope.scaling.factor"]
  keys += ["rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "split.count"]
  keys += ["final_logit_softcapping", "rope.freq_base_swa", "general.alignment", "expert_count"]
  keys += _NEWER.get(family, [])
  hostile = [None, True, 0, 1, 3, 2**31, 2**32 - 1, 0.0, -1.0, 0.5, float("nan"), float("inf"), "x"]
  hostile += ["yarn", "none", [1, 2, 3], [2, 2, 2], [True, False, True]]
  path = tmp_path / "model.gguf"
  for _ in range(60):
    metadata = {} if family != "llama" else _tokenizer()
    metadata |= {chance.choice(keys): chance.choice(hostile) for _ in range(chance.randint(1, 2))}
    write_gguf(path, model, metadata=metadata)
    _tolerate(lambda: load_model(str(path), "float32"), path)


@pytest.mark.parametrize(
  "changes",
  [
    {"ggml.token_type": [2, 3, 3]},
    {"ggml.token_type": ["a"] * 6},
    {"ggml.merges": ["a c"]},
    {"ggml.merges": ["a  b"]},
    {"ggml.merges": ["ab"]},
    {"ggml.merges": [1]},
    {"ggml.tokens": 3},
    {"ggml.tokens": [1, 2]},
    {"ggml.eos_token_id": "x"},
    {"ggml.model": 5},
  ],
)
def test_metadata_of_tokenizers(changes, seeds, tmp_path):
  path = tmp_path / "model.gguf"
  changes = {f"tokenizer.{key}": value for key, value in changes.items()}
  write_gguf(path, tiny_model(tiny_config("llama")), metadata=_tokenizer() | changes)
  assert _tolerate(lambda: _load_tokenizer(path), path) or "tokenizer.ggml.eos_token_id" in changes


def test_headers_of_safetensors(seeds, tmp_path):
  chance = random.Random(0)
  shutil.copytree(seeds / "qwen3", tmp_path / "model")
  path = tmp_path / "model" / "model.safetensors"
  data = path.read_bytes()
  (length,) = struct.unpack_from("<Q", data)
  header = json.loads(data[8 : 8 + length])
  for _ in range(100):
    if chance.random() < 0.5:
      path.write_bytes(_changed_bytes(data, chance, 8 + length))
    else:
      text = json.dumps(_mutated(header, chance)).encode()
      path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    _tolerate(lambda: load_model(str(path.parent), "float32"), path.parent)
