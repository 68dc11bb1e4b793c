"""A student out of its checkpoint: as a model of ours, a Hugging Face folder, a PEFT adapter."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array
from safetensors.numpy import save

from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.learnt_template import learnt_template
from greedy_prune_jax.distill.checkpoints import Checkpoints
from greedy_prune_jax.distill.lora import LoraConfig, adapted_names, axes_in, init_lora, merge_lora
from greedy_prune_jax.distill.parameters import Params, flat_params, with_params
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.distill.workdir import learnt_thinking
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.adapter import is_adapter
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.hf_export import save_huggingface, write_tokenizer
from greedy_prune_jax.models.layouts import head_order, layers_of, part_of
from greedy_prune_jax.models.parameters import ChooseShardings, abstract_model, parameter_name
from greedy_prune_jax.models.pretrained import (
  is_multimodal,
  load_model,
  load_stop_ids,
  load_tokenizer,
  portable_name,
)
from greedy_prune_jax.models.scratch import RandomInit, random_model
from greedy_prune_jax.parallel import gathered, named_shardings, place, weight_shardings
from greedy_prune_jax.runs.files import (
  explain_os_errors,
  make_subfolder,
  replace_file,
  user_path,
  write_json,
)
from greedy_prune_jax.runs.json_reader import read_json

EXPORT, ADAPTER = "export", "adapter"


def settings_of(workdir: Path) -> DistillSettings:
  """The settings of a `distill` run.

  Raises:
    UserError: the folder is not one of such a run.
  """
  path = workdir / "config.json"
  config = read_json(path)
  as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
  try:
    return DistillSettings.from_config(as_tuples)
  except UserError as error:
    raise UserError(f"{workdir} is not the workdir of a distill run: {error}") from error


def load_base(
  settings: DistillSettings, dtype: Any, shardings: ChooseShardings | None = None
) -> Model:
  """The model that training starts from: the student's weights, or random ones."""
  if not settings.init:
    return load_model(settings.student, dtype, shardings=shardings)
  vocab_size = len(load_tokenizer(settings.student))
  init = RandomInit.parse(settings.init)
  return random_model(init, vocab_size, settings.seed, dtype, shardings)


def load_student(
  workdir: Path,
  step: int,
  settings: DistillSettings,
  mesh: Mesh | None = None,
  *,
  fully_sharded: bool = False,
) -> tuple[Model, Params]:
  """A student as it was at a checkpoint, LoRA merged.

  Args:
    mesh: devices to put it on, whatever it was trained on; None: the default device.
    fully_sharded: True to split weights over `data` there, however it was trained.

  Returns:
    The model, and LoRA's matrices by themselves; none if all weights were trained.

  Raises:
    UserError: the model cannot be loaded, or not be split over the mesh.
  """
  choose = mesh and weight_shardings(mesh, fully_sharded=fully_sharded)
  base = load_base(settings, jnp.dtype(settings.dtype), choose)
  weights = flat_params(base.params)
  own = jax.process_index()  # others may read other checkpoints, or none
  alone = mesh is None or all(device.process_index == own for device in mesh.devices.flat)
  with Checkpoints(workdir, read_only=True, alone=alone) as checkpoints:
    if settings.lora is None:
      return with_params(base, checkpoints.restore_trained(step, weights)), {}
    like = init_lora(weights, settings.lora, 0)
    if mesh is not None and mesh.size > 1:
      like = place(like, named_shardings(like, mesh))
    matrices = checkpoints.restore_trained(step, like)
  return with_params(base, merge_lora(weights, matrices, settings.lora)), matrices


def export_student(
  workdir: Path, step: int, settings: DistillSettings, mesh: Mesh | None = None
) -> Path:
  """Writes the student of a checkpoint to `export/`, and LoRA's matrices to `adapter/`.

  See `load_student` for the arguments; it lies on the mesh as it did in training.

  Returns:
    The folder `export`, which transformers and other tools load; its chat template, also beside the
    matrices, asks as the student was asked in training.
  """
  model, matrices = load_student(
    workdir, step, settings, mesh, fully_sharded=settings.fully_sharded
  )
  if jax.process_count() > 1:
    model, matrices = with_params(model, gathered(flat_params(model.params))), gathered(matrices)
  folder = workdir / EXPORT
  if jax.process_index() > 0:
    return folder
  tokenizer = load_tokenizer(settings.student)
  template = load_chat_template(settings.chat_template, tokenizer)
  tokenizer.chat_template = learnt_template(template, learnt_thinking(workdir))
  make_subfolder(folder)
  with explain_os_errors(folder):
    stop_ids = sorted({*template.stop_ids, *load_stop_ids(settings.student)})
    save_huggingface(model, tokenizer, folder, stop_ids=stop_ids)
    if settings.lora is not None:
      adapter = workdir / ADAPTER
      save_adapter(model.config, matrices, settings.lora, settings.student, adapter)
      if adapter.is_dir():  # whoever loads it is to ask as the student was asked, too
        write_tokenizer(tokenizer, adapter)
  return folder


def save_adapter(
  model: ModelConfig,
  matrices: Mapping[str, Array],
  config: LoraConfig,
  base: str,
  folder: Path,
) -> None:
  """Writes LoRA's matrices in the form that PEFT reads.

  Nothing is written for families that keep a target and others in one tensor, which PEFT could not
  tell apart, nor for a base that is an adapter itself, which PEFT would leave out.

  Args:
    model: the base model.
    matrices: trained matrices of `init_lora`.
    base: name of that model, as PEFT is to find it.

  Raises:
    UserError: the base cannot be found.
  """
  place = user_path(base)
  if place.is_dir() and is_adapter(place):
    logging.warning("%s: no adapter, as the student %s is an adapter itself", folder, base)
    return
  multimodal = is_multimodal(base)
  root = "model.language_model." if multimodal else "model."
  names = FAMILIES[model.family].hf_tensors(root)
  weights = nnx.to_flat_state(abstract_model(model, "float32").params)
  paths = [parameter_name(path) for path, _ in weights]
  tensors = Counter((part_of(path), names[path]) for path in paths)
  adapted = {target: adapted_names(paths, target) for target in config.targets}
  fused = [t for t, of in adapted.items() if any(tensors[part_of(p), names[p]] > 1 for p in of)]
  if fused:
    logging.warning("%s: no adapter of %s, which %s fuses", folder, ", ".join(fused), model.family)
    return
  make_subfolder(folder)
  stored, chosen = {}, [name for of in adapted.values() for name in of]
  for name in chosen:
    a, b = (np.asarray(jax.device_get(matrices[f"{name}.{part}"])) for part in "ab")
    order = head_order(model, name)
    if order is not None:
      b = b.take(np.argsort(order), axis=-1)
    for at, layer in enumerate(layers_of(model, name)):
      prefix = f"base_model.model.{_module(names[name]).format(layer=layer)}"
      stored[f"{prefix}.lora_A.weight"] = _transposed(a[at], axes_in(name))
      stored[f"{prefix}.lora_B.weight"] = _transposed(b[at], 1)
  modules: list[str] | str = _ends(
    {_module(names[name]) for name in chosen}, {_module(names[path]) for path in paths}
  )
  if multimodal:  # its image part has modules of the same names
    modules = rf"{re.escape(root)}layers\..*\.({'|'.join(map(re.escape, modules))})"
  replace_file(folder / "adapter_model.safetensors", save(stored, metadata={"format": "pt"}))
  write_json(folder / "adapter_config.json", _adapter_config(config, portable_name(base), modules))


def _module(tensor: str) -> str:
  """The module that has a tensor."""
  return tensor.rpartition(".")[0]


def _ends(chosen: set[str], modules: set[str]) -> list[str]:
  """Ends of the names of chosen modules, which no other module's name has."""
  last = Counter(module.rpartition(".")[2] for module in modules)
  parts = {module: 1 if last[module.rpartition(".")[2]] == 1 else 2 for module in chosen}
  return sorted({".".join(module.split(".")[-count:]) for module, count in parts.items()})


def _transposed(matrix: np.ndarray, num_in: int) -> np.ndarray:
  """A matrix whose first axes are summed over as PyTorch has it: [outputs, inputs]."""
  inputs = int(np.prod(matrix.shape[:num_in]))
  return np.ascontiguousarray(matrix.reshape(inputs, -1).T)


def _adapter_config(config: LoraConfig, base: str, modules: list[str] | str) -> dict[str, Any]:
  return {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": config.rank,
    "lora_alpha": config.alpha,
    "lora_dropout": 0.0,
    "target_modules": modules,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "use_rslora": False,
    "use_dora": False,
  }
