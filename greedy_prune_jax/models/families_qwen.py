"""The families of Qwen."""

from greedy_prune_jax.models.family import ATTENTION_BIAS, Family, GgufNames

_DELTA_KEYS = {
  "delta_key_heads": "linear_num_key_heads",
  "delta_value_heads": "linear_num_value_heads",
  "delta_key_dim": "linear_key_head_dim",
  "delta_value_dim": "linear_value_head_dim",
  "conv_width": "linear_conv_kernel_dim",
}
_EXPERT_KEYS = {
  "num_experts": "num_experts",
  "experts_per_token": "num_experts_per_tok",
  "expert_dim": "moe_intermediate_size",
}
_SHARED_EXPERT_KEYS = _EXPERT_KEYS | {"shared_expert_dim": "shared_expert_intermediate_size"}
_NEXT_SWITCHES = {
  "qk_norm": True,
  "unit_offset_norm": True,
  "gated_attention": True,
  "recurrence": "delta",
}
_NEXT_GGUF = {"layers.mlp_norm.scale": "post_attention_norm.weight"}

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
      **_EXPERT_KEYS,
      "renormalised_experts": "norm_topk_prob",
    },
    gguf=GgufNames(architecture="qwen3moe"),
  ),
  Family(
    name="qwen3_5_text",
    title="Qwen3.5, dense, text",
    hf_class="Qwen3_5ForCausalLM",
    switches=_NEXT_SWITCHES,
    keys={**ATTENTION_BIAS, **_DELTA_KEYS},
    partial_rotary=True,
    fixed={"attention_bias": False},
    wrapper="qwen3_5",
    wrapper_ties=False,
    gguf=GgufNames(architecture="qwen35", values_in_turns=True, tensors=_NEXT_GGUF),
  ),
  Family(
    name="qwen3_next",
    title="Qwen3-Next",
    hf_class="Qwen3NextForCausalLM",
    switches=_NEXT_SWITCHES,
    keys={
      **ATTENTION_BIAS,
      **_DELTA_KEYS,
      **_SHARED_EXPERT_KEYS,
      "renormalised_experts": "norm_topk_prob",
    },
    tensors={
      **{f"layers.delta.{x}": "linear_attn.in_proj_qkvz.weight" for x in ("q", "k", "v", "gate")},
      **{f"layers.delta.{x}": "linear_attn.in_proj_ba.weight" for x in ("rate", "decay")},
    },
    partial_rotary=True,
    fixed={"attention_bias": False},
    gguf=GgufNames(
      architecture="qwen3next",
      tensors=_NEXT_GGUF | {f"layers.delta.{x}": "ssm_ba.weight" for x in ("rate", "decay")},
    ),
  ),
  Family(
    name="qwen3_5_moe_text",
    title="Qwen3.5 with experts, text",
    hf_class="Qwen3_5MoeForCausalLM",
    switches=_NEXT_SWITCHES,
    keys={
      **ATTENTION_BIAS,
      **_DELTA_KEYS,
      **_SHARED_EXPERT_KEYS,
      "mlp_dim": "shared_expert_intermediate_size",  # no layer is without experts
    },
    partial_rotary=True,
    fixed={"attention_bias": False},
    wrapper="qwen3_5_moe",
    wrapper_ties=False,
    gguf=GgufNames(architecture="qwen35moe", values_in_turns=True, tensors=_NEXT_GGUF),
  ),
)
