"""Training of every family: the loss and its gradient against PyTorch's, and LoRA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from greedy_prune_jax import accelerators
from greedy_prune_jax.distill.batches import pack_batch
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, init_lora, merge_lora
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.models.decoder import Decoder, Model
from greedy_prune_jax.models.hf_config import config_from_hf
from greedy_prune_jax.models.pretrained import load_model
from tests.helpers.made_examples import random_examples
from tests.helpers.reference import FAMILIES, tiny_config, tiny_model
from tests.helpers.tiny_student import student


def _by_torch(reference, examples):
  """Summed NLL of completions, and its gradient for embedding and head."""
  total = torch.zeros(())
  for example in examples:
    ids = torch.tensor(example.token_ids.astype(np.int64))[None]
    log_probs = reference(ids, use_cache=False).logits[0].log_softmax(-1)
    at = torch.arange(example.num_prompt - 1, len(example) - 1)
    total = total - log_probs[at, ids[0, at + 1]].sum()
  total.backward()
  return total.item(), reference.get_input_embeddings().weight.grad.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_transformers(family, tmp_path):
  reference = tiny_model(tiny_config(family)).float()
  reference.save_pretrained(tmp_path)
  model = load_model(str(tmp_path), "float32")
  examples = random_examples(5)
  rows = jax.tree.map(lambda x: jnp.asarray(x[0]), pack_batch(examples, 48).rows)

  params = flat_params(model.params)
  loss, gradient = jax.jit(jax.value_and_grad(student(model).nll))(params, {}, rows)

  expected_loss, expected = _by_torch(reference, examples)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  counted = np.arange(len(expected)) != reference.get_input_embeddings().padding_idx
  scale = np.abs(expected).max()  # PyTorch leaves the padding's row out, though it is a token here
  found = gradient["embedding"] / scale
  np.testing.assert_allclose(found[counted], expected[counted] / scale, atol=1e-5)
  assert all(np.isfinite(array).all() for array in gradient.values())
  still = {name for name, array in gradient.items() if not np.abs(array).max()}
  assert still <= {"layers.scale"}  # a buffer, which no one trains


# Of each set of names that adapters may have, and each kind of weight beside them.
ADAPTED = (
  *("llama", "qwen3_moe", "mixtral", "gpt_oss", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"),
  *("gemma4_text", "gemma4_text, experts", "granitemoehybrid", "apertus", "lfm2"),
)


@pytest.mark.slow
@pytest.mark.parametrize("family", ADAPTED)
def test_lora_is_its_merged_model(family, tmp_path):
  tiny_model(tiny_config(family)).save_pretrained(tmp_path)
  model = load_model(str(tmp_path), "float32")
  params = flat_params(model.params)
  targets = tuple(target for target, name in TARGETS.items() if name in params)
  lora = LoraConfig(rank=3, alpha=6.0, targets=targets)
  noise = np.random.default_rng(0)
  matrices = {
    name: x + jnp.asarray(0.1 * noise.normal(size=x.shape), jnp.float32)
    for name, x in init_lora(params, lora, 0).items()
  }
  rows = jax.tree.map(lambda x: jnp.asarray(x[0]), pack_batch(random_examples(5), 48).rows)

  adapted = student(model, lora).nll(matrices, params, rows)

  merged = student(model).nll(merge_lora(params, matrices, lora), {}, rows)
  np.testing.assert_allclose(adapted, merged, rtol=1e-5)
  assert abs(adapted - student(model).nll(params, {}, rows)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma3_text"])
def test_float32_is_trained_by_three_tf32_products_on_a_gpu(family, adapted, monkeypatch):
  monkeypatch.setattr(accelerators, "_has_tf32", lambda: True)
  config = config_from_hf(tiny_config(family).to_dict())
  model = Model.from_decoder(Decoder(config, nnx.Rngs(0), platform="gpu"))
  params, lora = flat_params(model.params), None
  trained, frozen = params, {}
  if adapted:
    lora = LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "o_proj"))
    trained, frozen = init_lora(params, lora, 0), params
  rows = jax.tree.map(lambda x: jnp.asarray(x[0]), pack_batch(random_examples(2), 48).rows)

  nll = student(model, lora, remat="dots").nll
  traced = jax.jit(jax.value_and_grad(nll)).trace(trained, frozen, rows)

  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  dots = [line for line in text.splitlines() if "dot_general" in line]
  in_full = [line for line in dots if "num_primitive_operations = 3" not in line]
  assert len(dots) > 20
  assert len(in_full) == 1  # the sum of a softmax, a product with ones
  assert f"tensor<{config.vocab_size}xf32>) ->" in in_full[0]
