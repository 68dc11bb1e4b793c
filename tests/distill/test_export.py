"""Adapters of students whose checkpoints have other names, orders or tensors than ours."""

import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from greedy_prune_jax.distill.export import save_adapter
from greedy_prune_jax.distill.lora import TARGETS, LoraConfig, init_lora, merge_lora
from greedy_prune_jax.distill.parameters import flat_params, with_params
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import load_model
from tests.helpers.logits import forward_logits
from tests.helpers.reference import tiny_config, tiny_model
from tests.helpers.tiny_student import student

VISION = {
  "hidden_size": 16,
  "intermediate_size": 16,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "image_size": 28,
  "patch_size": 14,
}


@pytest.mark.slow
def test_peft_reads_the_adapter_of_a_multimodal_student(tmp_path):
  text = tiny_config("gemma3_text").to_dict()
  config = transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
  reference = tiny_model(config)
  reference.save_pretrained(tmp_path / "base")
  base = load_model(str(tmp_path / "base"), "float32")
  lora = LoraConfig(rank=2, alpha=4.0, targets=tuple(TARGETS))
  matrices = init_lora(flat_params(base.params), lora, 0)
  matrices = {name: x + 0.1 if name.endswith(".b") else x for name, x in matrices.items()}

  save_adapter(base.config, matrices, lora, str(tmp_path / "base"), tmp_path / "adapter")

  ids = np.arange(20)[None] + 5
  adapted = peft.PeftModel.from_pretrained(reference, tmp_path / "adapter")
  with torch.no_grad():
    found = adapted(torch.tensor(ids)).logits.numpy()
  merged = with_params(base, merge_lora(flat_params(base.params), matrices, lora))
  expected = forward_logits(merged.decoder, jnp.asarray(ids))
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert abs(forward_logits(base.decoder, jnp.asarray(ids)) - expected).max() > 0.05
  changed = [name for name, _ in adapted.named_parameters() if "lora_" in name]
  assert len(changed) == 2 * 3 * len(TARGETS), "two matrices for each target of the text's layers"


@pytest.mark.parametrize("family", ["glm4", "phi3", "lfm2"])
def test_adapter_has_the_order_of_the_checkpoint_or_is_left_out(family, tmp_path):
  reference = tiny_model(tiny_config(family))
  reference.save_pretrained(tmp_path / "base")
  base = load_model(str(tmp_path / "base"), "float32")
  lora = LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "k_proj", "o_proj", "down_proj"))
  matrices = init_lora(flat_params(base.params), lora, 0)
  noise = np.random.default_rng(0)
  matrices = {name: x + 0.1 * noise.normal(size=x.shape) for name, x in matrices.items()}

  save_adapter(base.config, matrices, lora, str(tmp_path / "base"), tmp_path / "adapter")

  if family == "phi3":  # queries, keys and values are one tensor
    assert not (tmp_path / "adapter").exists()
    return
  ids = np.arange(20)[None] + 5
  adapted = peft.PeftModel.from_pretrained(reference, tmp_path / "adapter")
  with torch.no_grad():
    found = adapted(torch.tensor(ids)).logits.numpy()
  merged = with_params(base, merge_lora(flat_params(base.params), matrices, lora))
  np.testing.assert_allclose(found, forward_logits(merged.decoder, jnp.asarray(ids)), atol=1e-4)
  changed = [name for name, _ in adapted.named_parameters() if "lora_" in name]
  assert len(changed) == sum(map(len, matrices.values())), "of each layer, and of nothing else"


def test_targets_that_a_model_lacks_are_named(tmp_path):
  tiny_model(tiny_config("mixtral")).save_pretrained(tmp_path)
  base = load_model(str(tmp_path), "float32")
  lora = LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "up_proj"))
  with pytest.raises(UserError, match="lora_targets has up_proj, which no layer"):
    init_lora(flat_params(base.params), lora, 0)


@pytest.mark.slow
def test_small_changes_of_weights_in_bfloat16_are_merged_whole(tmp_path):
  reference = tiny_model(tiny_config("llama"))
  reference.save_pretrained(tmp_path)
  base = load_model(str(tmp_path), "bfloat16")
  weights = flat_params(base.params)
  lora = LoraConfig(rank=2, alpha=2.0, targets=("q_proj", "down_proj"))
  noise = np.random.default_rng(0)
  matrices = {
    name: jnp.asarray(1e-2 * noise.normal(size=x.shape), jnp.float32)
    for name, x in init_lora(weights, lora, 0).items()
  }
  ids = jnp.arange(5, 25)

  untrained = {name: 0 * x for name, x in matrices.items()}
  plain, adapted = (student(base, lora).decoder(x, weights) for x in (untrained, matrices))
  merged = with_params(base, merge_lora(weights, matrices, lora)).decoder

  change = forward_logits(adapted, ids) - forward_logits(plain, ids)
  off = forward_logits(merged, ids) - forward_logits(adapted, ids)
  assert 1e-4 < jnp.abs(change).max() < 1e-2  # most weights in bfloat16 would not change by it
  assert jnp.abs(off).max() < 0.01 * jnp.abs(change).max()
