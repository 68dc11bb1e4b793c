"""Measurements of `on_device`: each function makes one row's numbers, or raises."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peak import copy_bandwidth, decode_bytes, matmul_peak
from benchmarks.prune_ours import delete, settings_for
from benchmarks.shapes import SHAPES, random_model, same_model
from benchmarks.train_ours import OurStep, lora_config, packed
from greedy_prune_jax.chains.segments import Segments
from greedy_prune_jax.distill.batches import Batch
from greedy_prune_jax.distill.metrics import peak_flops, train_step_flops
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.sampler import Request, Sampler
from greedy_prune_jax.search.host import SearchSettings, prune_paths
from greedy_prune_jax.search.path import PrunePath
from greedy_prune_jax.search.screen import ScreenSettings

EXPECTED = Path(__file__).with_name("on_device_expected.json")
_NUM_PROMPT, _NUM_ANSWER = 120, 12
_STEP_FLOPS = 2e15  # of the timed deletions of a row, about: seconds on an accelerator
_SMALL = 5_000_000  # weights of a model with which every row is kept small

Found = dict[str, Any]


def random_segments(config: ModelConfig, num_reasoning: int, num_prompt: int = _NUM_PROMPT):
  """A chain of random tokens."""
  rng = np.random.default_rng(num_reasoning)
  sizes = (num_prompt, num_reasoning, _NUM_ANSWER)
  return Segments(*(rng.integers(0, config.vocab_size, n, dtype=np.int32) for n in sizes))


def _is_small(config: ModelConfig) -> bool:
  return config.matmul_params(head=True) < _SMALL


def _flops(config: ModelConfig, positions: float, seen: float) -> float:
  """FLOPs of token positions that are scored and see so many others each."""
  attention = 4.0 * config.num_layers * config.num_heads * config.head_dim * seen
  return positions * (2.0 * config.matmul_params(head=True) + attention)


@functools.cache
def _peak() -> float:
  """FLOP/s of bfloat16 products: the maker's figure, else measured."""
  return peak_flops(1) or matmul_peak(jnp.bfloat16)


def ceilings() -> Found:
  """Rates that products and copies reach here."""
  sizes = (1024,) if jax.default_backend() == "cpu" else (4096, 8192)
  return {
    "copy_GB_per_s": copy_bandwidth(2**26 if jax.default_backend() == "cpu" else 2**32) / 1e9,
    **{
      f"{name}_TFLOP_per_s": matmul_peak(dtype, sizes) / 1e12
      for name, dtype in (("bfloat16", jnp.bfloat16), ("float32", jnp.float32))
    },
    "makers_bfloat16_TFLOP_per_s": (peak_flops(1) or 0) / 1e12,
  }


class Search:
  """Our exact search on a model of a shape, made when first needed."""

  def __init__(self, config: ModelConfig):
    self._config = config

  @functools.cached_property
  def _model(self) -> Model:
    return random_model(self._config, jnp.bfloat16)

  def measure(self, num_reasoning: int, attention: str) -> Found:
    """Time of a deletion from a chain of so many reasoning tokens."""
    segments = random_segments(self._config, num_reasoning)
    settings = settings_for(self._model, [segments], "joint", attention)  # pyright: ignore
    most = _flops(self._config, num_reasoning**2 / 2, _NUM_PROMPT + num_reasoning)
    deletions = 1 if _is_small(self._config) else int(np.clip(_STEP_FLOPS / most, 1, 16))
    started = time.perf_counter()
    delete(self._model, [segments], deletions, settings)
    first = time.perf_counter() - started
    found: Any = delete(self._model, [segments], deletions, settings)
    flops = _flops(self._config, found["positions"], _NUM_PROMPT + num_reasoning / 2)
    return {
      "seconds_per_deletion": found["seconds"] / deletions,
      "positions_per_s": found["positions"] / found["seconds"],
      "share_of_peak": flops / found["seconds"] / _peak(),
      "first_call_s": first,
      "block_positions": settings.block_positions,
    }


class PublishedSearch:
  """The published procedure in transformers, bfloat16, on the same device."""

  def __init__(self, config: ModelConfig):
    self._config = config

  @functools.cached_property
  def _model(self) -> Any:
    import torch
    import transformers

    shape, small = self._config, _is_small(self._config)
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
      raise RuntimeError("this PyTorch has no CUDA")
    kinds: Any = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}
    config = kinds[shape.family](
      vocab_size=shape.vocab_size,
      hidden_size=shape.model_dim,
      intermediate_size=shape.mlp_dim,
      num_hidden_layers=shape.num_layers,
      num_attention_heads=shape.num_heads,
      num_key_value_heads=shape.num_kv_heads,
      head_dim=shape.head_dim,
      tie_word_embeddings=shape.tied_head,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if small else torch.bfloat16
    with torch.device(device):
      return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

  def measure(self, num_reasoning: int) -> Found:
    """Time of a deletion; of a long chain some candidates are run, and scaled up to all."""
    from benchmarks.published import Published

    segments = random_segments(self._config, num_reasoning)
    most = min(num_reasoning, 128)
    best: dict[int, float] = {}
    for batch in (8,) if _is_small(self._config) else (32, 128):
      side = Published(self._model, batch)
      side.delete(segments, "joint", 1, batch)  # warms up
      best[batch] = side.delete(segments, "joint", 1, most)[1]
    batch = min(best, key=lambda size: best[size])
    length = _NUM_PROMPT + num_reasoning - 1 + _NUM_ANSWER
    return {
      "seconds_per_deletion": best[batch],
      "positions_per_s": num_reasoning * length / best[batch],
      "batch": batch,
      "candidates_run": most,
    }


def _examples(config: ModelConfig, count: int, longest: int) -> list[tuple[list[int], int]]:
  rng = np.random.default_rng(0)
  lengths = rng.integers(longest // 2, longest + 1, count)
  return [(rng.integers(0, config.vocab_size, n).tolist(), int(n) // 3) for n in lengths]


def train(config: ModelConfig, rank: int, steps: int = 3) -> Found:
  """Time of a training step in bfloat16: of all weights, or of LoRA's matrices."""
  lora = lora_config(rank, 2.0 * rank)
  model = random_model(config, jnp.bfloat16 if lora else jnp.float32)
  batch = packed(_examples(config, *((4, 32) if _is_small(config) else (64, 400))))
  step = OurStep(model, batch, lora, "bfloat16", "dots")
  del model  # the step donates what it trains
  timed = [step() for _ in range(1 + steps)]
  seconds = min(seconds for _, seconds in timed[1:])
  flops = train_step_flops(config, batch, all_weights=lora is None)
  return {
    "tokens_per_s": batch.num_tokens / seconds,
    "seconds_per_step": seconds,
    "share_of_peak": flops / seconds / _peak(),
    "first_step_s": timed[0][1],
    "loss": timed[-1][0],
  }


def sample(config: ModelConfig, count: int) -> Found:
  """Time of greedy writing, no text ending early."""
  num_prompt, new_tokens = (8, 16) if _is_small(config) else (200, 256)
  model = random_model(config, jnp.bfloat16)
  rng = np.random.default_rng(0)
  prompts = rng.integers(0, config.vocab_size, (count, num_prompt))
  requests = [Request(prompt_ids=tuple(p), max_new_tokens=new_tokens) for p in prompts.tolist()]
  sampler = Sampler(model, str, [], max_rows=count)
  seconds = []
  for _ in range(2):  # the first compiles
    started = time.perf_counter()
    list(sampler.sample(requests))
    seconds.append(time.perf_counter() - started)
  needed = decode_bytes(model, count, num_prompt, new_tokens)
  return {
    "tokens_per_s": count * new_tokens / seconds[1],
    "ms_per_step": 1000 * seconds[1] / new_tokens,
    "share_of_bandwidth": needed / seconds[1] / copy_bandwidth(),
    "first_run_s": seconds[0],
  }


# What must come out as on a CPU: small enough for seconds anywhere.
_CHECKED = dataclasses.replace(SHAPES["tiny"], num_layers=3, num_heads=6, head_dim=32)
_CHECKED_TOKENS = 24


def _prune(dtype: Any = jnp.float32, **settings: Any) -> Found:
  model, segments = same_model(_CHECKED, dtype), random_segments(_CHECKED, _CHECKED_TOKENS, 20)
  path = PrunePath(segments, floor=_CHECKED_TOKENS // 2)
  settings = {"objective": "joint", "block_positions": 512} | settings
  [path] = prune_paths(model, [path], SearchSettings(**settings))
  return {"order": list(map(int, path.deleted)), "numbers": list(path.nll["joint"])}


def _write_texts() -> Found:
  prompts = np.random.default_rng(1).integers(0, _CHECKED.vocab_size, (3, 10)).tolist()
  requests = [Request(prompt_ids=tuple(p), max_new_tokens=12) for p in prompts]
  sampler = Sampler(same_model(_CHECKED, jnp.float32), str, [])
  texts = dict(sampler.sample(requests))
  return {"order": [int(t) for i in range(3) for t in texts[i].token_ids], "numbers": []}


def _train_steps() -> Found:
  batch: Batch = packed(_examples(_CHECKED, 6, 30))
  step = OurStep(same_model(_CHECKED, jnp.float32), batch, None, "float32")
  return {"order": [], "numbers": [step()[0] for _ in range(4)]}


# Name -> what to run, and how far its numbers may lie from the CPU's (nats per token).
CHECKS: dict[str, tuple[Callable[[], Found], float]] = {
  "exact joint": (_prune, 2e-5),
  "exact answer": (functools.partial(_prune, objective="answer"), 2e-5),
  "exact joint by kernel": (functools.partial(_prune, attention="pallas"), 2e-5),
  "screened": (functools.partial(_prune, screen=ScreenSettings()), 2e-5),
  "several a step": (functools.partial(_prune, deletions_per_step=3), 2e-5),
  "bfloat16": (functools.partial(_prune, dtype=jnp.bfloat16), 0.05),
  "greedy texts": (_write_texts, 0.0),
  "training": (_train_steps, 1e-4),
}


# Orders that hang on rounding: of bfloat16; and of the answer alone, which deletions from a chain
# of random tokens change so little that the best two are often within 1e-6 nats of each other.
_NEAR_TIES = ("bfloat16", "exact answer")


def check(name: str) -> Found:
  """Compares with the CPU; orders must be equal where they do not hang on rounding.

  Raises:
    AssertionError: something came out differently.
  """
  run, tolerance = CHECKS[name]
  found, expected = run(), json.loads(EXPECTED.read_text())[name]
  same = found["order"] == expected["order"]
  shared = len(found["order"]) if same else _parts_at(found["order"], expected["order"])
  # Behind the point at which orders part the texts differ, and so do their numbers.
  count = len(found["numbers"]) if same else min(shared + 1, len(found["numbers"]))
  pairs = zip(found["numbers"][:count], expected["numbers"][:count], strict=False)
  error = max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=0.0)
  result = {"same_order": same, "parts_at": shared, "largest_difference": error}
  assert error <= tolerance, f"numbers differ: {result}, {tolerance} allowed"
  assert same or name in _NEAR_TIES, f"orders differ: {result}"
  return result


def _parts_at(one: list[int], other: list[int]) -> int:
  return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


def write_expected() -> None:
  """Stores what this machine finds; meant for a CPU."""
  assert jax.default_backend() == "cpu"
  found = {name: run() for name, (run, _) in CHECKS.items()}
  EXPECTED.write_text(json.dumps(found, indent=1) + "\n")
