"""Every type of tensors that GGUF files have: read by the `gguf` package's rule, or refused."""

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.gguf_file import supported_types
from greedy_prune_jax.models.pretrained import load_model
from tests.helpers.gguf_files import write_gguf
from tests.helpers.logits import forward_logits
from tests.helpers.reference import tiny_config, tiny_model, token_ids

# Rows of one block of the largest kind; with two heads of keys, matrices have several shapes.
SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 1}
READ = [
  *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K"),
  *("Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
  *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
]
REFUSED = [kind for kind in gguf.GGMLQuantizationType if kind.name not in READ]


def random_blocks(kind, count, rng):
  """Random bytes of a kind whose values are of the size of weights, [count, bytes of a block]."""
  _, num_bytes = gguf.GGML_QUANT_SIZES[kind]
  found = np.empty((0, num_bytes), np.uint8)
  while len(found) < 50:
    drawn = rng.integers(0, 256, (1000, num_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
      values = gguf.quants.dequantize(drawn, kind)
      largest = np.abs(values).max(-1)
    found = np.concatenate([found, drawn[(largest > 0.02) & (largest < 0.3)]])
  return found[rng.integers(len(found), size=count)]


def quantised(reference, kind):
  """Puts the dequantised values of random blocks into a model, and returns the blocks."""
  rng, blocks = np.random.default_rng(0), {}
  block_size, _ = gguf.GGML_QUANT_SIZES[kind]
  with torch.no_grad():
    for name, parameter in reference.named_parameters():
      if parameter.ndim == 2:
        rows, columns = parameter.shape
        raw = random_blocks(kind, rows * columns // block_size, rng).reshape(rows, -1)
        parameter.copy_(torch.tensor(gguf.quants.dequantize(raw, kind)))
        blocks[name] = raw
  return blocks


def nll(logits, ids):
  log_probs = torch.tensor(np.array(logits)).double().log_softmax(-1)
  return -log_probs[:, :-1].gather(-1, torch.tensor(ids)[:, 1:, None])[..., 0].numpy()


def test_the_types_that_can_be_read():
  assert sorted(supported_types()) == sorted(READ)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ)
def test_a_text_has_the_nll_that_the_dequantised_weights_give_it(kind, tmp_path):
  kind = gguf.GGMLQuantizationType[kind]
  reference = tiny_model(tiny_config("qwen3", **SIZES))
  blocks = quantised(reference, kind)
  write_gguf(tmp_path / "model.gguf", reference, kind=kind, blocks=blocks)
  ids = token_ids(reference.config)
  with torch.no_grad():
    expected = nll(reference.float()(torch.tensor(ids)).logits, ids)

  decoder = load_model(str(tmp_path / "model.gguf"), "float32").decoder

  assert np.std(expected) > 0.05  # each token's own
  found = nll(forward_logits(decoder, jnp.asarray(ids)), ids)
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
  "kind",
  [kind for kind in gguf.GGMLQuantizationType if kind.name not in READ],
  ids=lambda k: k.name,
)
def test_other_types_are_refused_by_name(kind, tmp_path):
  path = tmp_path / "model.gguf"
  extra = {"extra.weight": np.zeros((2, 32), np.int8)}
  write_gguf(path, tiny_model(tiny_config("llama")), tensors=extra)
  data = bytearray(path.read_bytes())
  entry = data.index(b"extra.weight") + len(b"extra.weight") + 4 + 2 * 8  # past name and shape
  data[entry] = kind
  path.write_bytes(data)
  with pytest.raises(UserError, match=f"'extra.weight' is stored as {kind.name}, .*supported are"):
    load_model(str(path), "float32")
