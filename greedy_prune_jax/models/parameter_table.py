"""The decoder's parameters: letters of their axes, and names of their tensors in files."""

# A row for each parameter, in five columns:
#   its name, which begins with `layers.` where every layer, or some, have one;
#   the letters of its axes, in one layer: see `models.layouts`;
#   the axes of its tensor in files, each with the letters that it is made of;
#   its tensor in a Hugging Face folder, `{expert}` for an expert's number;
#   its tensor in a GGUF file.
# "-" is for a parameter without one. Names of layers' tensors stand under the layer. Parameters of
# one tensor are its rows, in the order of this table.
_TABLE = """
embedding VD V,D embed_tokens.weight token_embd.weight
head VD V,D lm_head.weight output.weight
final_norm.scale D D norm.weight output_norm.weight
layers.attention_norm.scale D D input_layernorm.weight attn_norm.weight
layers.post_attention_norm.scale D D post_attention_layernorm.weight post_attention_norm.weight
layers.mlp_norm.scale D D post_attention_layernorm.weight ffn_norm.weight
layers.post_mlp_norm.scale D D post_feedforward_layernorm.weight post_ffw_norm.weight
layers.attention.q DNH NH,D self_attn.q_proj.weight attn_q.weight
layers.attention.k DKH KH,D self_attn.k_proj.weight attn_k.weight
layers.attention.v DKH KH,D self_attn.v_proj.weight attn_v.weight
layers.attention.out NHD D,NH self_attn.o_proj.weight attn_output.weight
layers.attention.q_bias NH NH self_attn.q_proj.bias attn_q.bias
layers.attention.k_bias KH KH self_attn.k_proj.bias attn_k.bias
layers.attention.v_bias KH KH self_attn.v_proj.bias attn_v.bias
layers.attention.out_bias D D self_attn.o_proj.bias attn_output.bias
layers.attention.sinks N N self_attn.sinks attn_sinks.weight
layers.attention.gate DNH NH,D self_attn.q_proj.weight attn_q.weight
layers.delta.q DJP JP,D linear_attn.in_proj_qkv.weight attn_qkv.weight
layers.delta.k DJP JP,D linear_attn.in_proj_qkv.weight attn_qkv.weight
layers.delta.v DMO MO,D linear_attn.in_proj_qkv.weight attn_qkv.weight
layers.delta.gate DMO MO,D linear_attn.in_proj_z.weight attn_gate.weight
layers.delta.rate DM M,D linear_attn.in_proj_b.weight ssm_beta.weight
layers.delta.decay DM M,D linear_attn.in_proj_a.weight ssm_alpha.weight
layers.delta.q_filter JP1W JP,1,W linear_attn.conv1d.weight ssm_conv1d.weight
layers.delta.k_filter JP1W JP,1,W linear_attn.conv1d.weight ssm_conv1d.weight
layers.delta.v_filter MO1W MO,1,W linear_attn.conv1d.weight ssm_conv1d.weight
layers.delta.decay_bias M M linear_attn.dt_bias ssm_dt.bias
layers.delta.log_speed M M linear_attn.A_log ssm_a
layers.delta.norm_scale O O linear_attn.norm.weight ssm_norm.weight
layers.delta.out MOD D,MO linear_attn.out_proj.weight ssm_out.weight
layers.conv.in_gate DZ Z,D conv.in_proj.weight shortconv.in_proj.weight
layers.conv.out_gate DZ Z,D conv.in_proj.weight shortconv.in_proj.weight
layers.conv.value DZ Z,D conv.in_proj.weight shortconv.in_proj.weight
layers.conv.filter Z1W Z,1,W conv.conv.weight shortconv.conv.weight
layers.conv.out ZD D,Z conv.out_proj.weight shortconv.out_proj.weight
layers.conv.in_gate_bias Z Z conv.in_proj.bias -
layers.conv.out_gate_bias Z Z conv.in_proj.bias -
layers.conv.value_bias Z Z conv.in_proj.bias -
layers.conv.filter_bias Z Z conv.conv.bias -
layers.conv.out_bias D D conv.out_proj.bias -
layers.attention.q_norm.scale H H self_attn.q_norm.weight attn_q_norm.weight
layers.attention.k_norm.scale H H self_attn.k_norm.weight attn_k_norm.weight
layers.attention.wide_q_norm.scale NH NH self_attn.q_norm.weight attn_q_norm.weight
layers.attention.wide_k_norm.scale KH KH self_attn.k_norm.weight attn_k_norm.weight
layers.mlp.gate DF F,D mlp.gate_proj.weight ffn_gate.weight
layers.mlp.up DF F,D mlp.up_proj.weight ffn_up.weight
layers.mlp.down FD D,F mlp.down_proj.weight ffn_down.weight
layers.mlp.gate_bias F F mlp.gate_proj.bias ffn_gate.bias
layers.mlp.up_bias F F mlp.up_proj.bias ffn_up.bias
layers.mlp.down_bias D D mlp.down_proj.bias ffn_down.bias
layers.experts.router DR R,D mlp.gate.weight ffn_gate_inp.weight
layers.experts.gate EDI E,I,D mlp.experts.{expert}.gate_proj.weight ffn_gate_exps.weight
layers.experts.up EDI E,I,D mlp.experts.{expert}.up_proj.weight ffn_up_exps.weight
layers.experts.down EID E,D,I mlp.experts.{expert}.down_proj.weight ffn_down_exps.weight
layers.experts.shared.gate DS S,D mlp.shared_expert.gate_proj.weight ffn_gate_shexp.weight
layers.experts.shared.up DS S,D mlp.shared_expert.up_proj.weight ffn_up_shexp.weight
layers.experts.shared.down SD D,S mlp.shared_expert.down_proj.weight ffn_down_shexp.weight
layers.experts.shared_gate D1 1,D mlp.shared_expert_gate.weight ffn_gate_inp_shexp.weight
layers.experts.router_norm.scale D D - ffn_gate_inp.scale
layers.experts.scale R R - ffn_down_exps.scale
layers.experts.norm.scale D D - pre_ffw_norm_2.weight
layers.experts.post_norm.scale D D - post_ffw_norm_2.weight
layers.mlp_alone_norm.scale D D - post_ffw_norm_1.weight
layers.experts.router_bias R R - ffn_gate_inp.bias
layers.experts.gate_bias EI E,I - ffn_gate_exps.bias
layers.experts.up_bias EI E,I - ffn_up_exps.bias
layers.experts.down_bias ED E,D - ffn_down_exps.bias
layers.mlp.alpha_p 1 1 mlp.act_fn.alpha_p -
layers.mlp.alpha_n 1 1 mlp.act_fn.alpha_n -
layers.scale 1 1 layer_scalar layer_output_scale.weight
layers.per_layer.gate DU U,D per_layer_input_gate.weight inp_gate.weight
layers.per_layer.out UD D,U per_layer_projection.weight proj.weight
layers.per_layer.norm.scale D D post_per_layer_input_norm.weight post_norm.weight
per_layer.table VLU V,LU embed_tokens_per_layer.weight per_layer_token_embd.weight
per_layer.projection DLU LU,D per_layer_model_projection.weight per_layer_model_proj.weight
per_layer.norm.scale U U per_layer_projection_norm.weight per_layer_proj_norm.weight
"""
_ROWS = [line.split() for line in _TABLE.strip().splitlines()]

# Parameters -> letters of their axes, and of each axis of their tensors.
AXES = {name: (axes, tuple(stored.split(","))) for name, axes, stored, _, _ in _ROWS}

# Parameters -> tensors of a Hugging Face folder, and of a GGUF file, under `blk.{layer}.`.
HF_TENSORS = {name: tensor for name, _, _, tensor, _ in _ROWS if tensor != "-"}
GGUF_TENSORS = {name: tensor for name, _, _, _, tensor in _ROWS if tensor != "-"}
