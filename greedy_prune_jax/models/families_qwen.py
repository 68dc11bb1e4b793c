"""The families of Qwen."""

from greedy_prune_jax.models.family import ATTENTION_BIAS, Family, GgufNames

QWEN = (
  Family(
    name="qwen2",
    title="Qwen2, Qwen2.5, R1 distills of Qwen",
    hf_class="Qwen2ForCausalLM",
    switches={"qkv_bias": True},
    gguf=GgufNames(architecture="qwen2"),
  ),
  Family(
    name="qwen3",
    title="Qwen3",
    hf_class="Qwen3ForCausalLM",
    switches={"qk_norm": True},
    keys=ATTENTION_BIAS,
    gguf=GgufNames(architecture="qwen3"),
  ),
  Family(
    name="qwen3_moe",
    title="Qwen3 with experts (30B-A3B)",
    hf_class="Qwen3MoeForCausalLM",
    switches={"qk_norm": True},
    keys={
      **ATTENTION_BIAS,
      "num_experts": "num_experts",
      "experts_per_token": "num_experts_per_tok",
      "expert_dim": "moe_intermediate_size",
      "renormalised_experts": "norm_topk_prob",
    },
    gguf=GgufNames(architecture="qwen3moe"),
  ),
)
