"""The sampler beside transformers' `generate`, on the same prompts in one sitting.

    python -m benchmarks.sample_speed [--prompts=32] [--new_tokens=128] [--rounds=2]

Both write greedily on `gsm_symbolic` questions of unequal length with SmolLM2-135M-Instruct in
float32, up to `new_tokens` or the end of the turn, in turns. `generate` gets all prompts in one
batch, padded on the left; so do we, but rows that have finished fall away. Only tokens that count
are counted: of each text up to its end. The texts must be equal.

The last line is for accelerators, where reading the weights and the cache is what takes time: which
share of the memory's bandwidth (measured by copying an array) a step reaches that all rows take
part in. Times are of this machine on this day; the ratio is what to quote.
"""

import tempfile
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import torch
import transformers
from absl import app, flags

from benchmarks.peak import copy_bandwidth, decode_bytes
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.question_sets import load_questions
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.hf_export import save_huggingface
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.models.sampler import Request, Sampler

_MODEL = "smollm2-135m-instruct"
_PROMPTS = flags.DEFINE_integer("prompts", 32, "Number of prompts, all written on at once.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 128, "Most tokens to write on each.")
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Turns of each side, after one that compiles.")

Texts = list[list[int]]


def ours(model: Model, prompts: Texts, stop_ids: list[int]) -> Callable[[], Texts]:
  """Our side, ready to run."""
  sampler = Sampler(model, str, stop_ids, max_rows=len(prompts))
  requests = [Request(prompt_ids=tuple(p), max_new_tokens=_NEW_TOKENS.value) for p in prompts]

  def write() -> Texts:
    samples = dict(sampler.sample(requests))
    return [list(samples[index].token_ids) for index in range(len(prompts))]

  return write


def theirs(folder: str, prompts: Texts, stop_ids: list[int]) -> Callable[[], Texts]:
  """Transformers' side, ready to run."""
  # Any: pyright does not see the methods that transformers mixes in.
  model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
  width = max(map(len, prompts))
  ids = torch.tensor([[stop_ids[0]] * (width - len(p)) + p for p in prompts])
  mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
  options = {"do_sample": False, "eos_token_id": stop_ids, "pad_token_id": stop_ids[0]}

  def write() -> Texts:
    with torch.no_grad():
      out = model.generate(ids, attention_mask=mask, max_new_tokens=_NEW_TOKENS.value, **options)
    return [_cut(row.tolist(), stop_ids) for row in out[:, width:]]

  return write


def _cut(ids: list[int], stop_ids: list[int]) -> list[int]:
  ends = [at for at, token_id in enumerate(ids) if token_id in stop_ids]
  return ids[: ends[0]] if ends else ids


def timed(write: Callable[[], Texts]) -> tuple[Texts, float]:
  """Texts that were written, and the seconds that it took."""
  started = time.perf_counter()
  return write(), time.perf_counter() - started


def bandwidth_share(model: Model, prompts: Texts) -> float:
  """Share of the memory's bandwidth that decoding reaches when no row finishes early."""
  write = ours(model, prompts, [])
  write()
  _, seconds = timed(write)
  mean = sum(map(len, prompts)) // len(prompts)
  needed = decode_bytes(model, len(prompts), mean, _NEW_TOKENS.value)
  return needed / seconds / copy_bandwidth()


def main(_) -> None:
  """Runs both sides and prints what they took."""
  tokenizer = load_tokenizer(_MODEL)
  template = load_chat_template("tokenizer", tokenizer)
  questions = load_questions("gsm_symbolic", num_questions=_PROMPTS.value)
  texts = [template.prompt(question.question, question.system) for question in questions]
  prompts = [
    cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
  ]
  stop_ids = [cast(int, tokenizer.convert_tokens_to_ids("<|im_end|>"))]
  model = load_model(_MODEL, "float32")
  with tempfile.TemporaryDirectory() as folder:
    save_huggingface(model, tokenizer, folder)
    sides = {
      "transformers": theirs(folder, prompts, stop_ids),
      "ours": ours(model, prompts, stop_ids),
    }
  first = {name: timed(write) for name, write in sides.items()}
  same = sum(a == b for a, b in zip(first["ours"][0], first["transformers"][0], strict=True))
  best = {name: float("inf") for name in sides}
  for _ in range(_ROUNDS.value):
    for name, write in sides.items():
      best[name] = min(best[name], timed(write)[1])

  lengths = sorted(map(len, first["ours"][0]))
  print(
    f"{jax.devices()[0].device_kind}, {len(prompts)} prompts of {min(map(len, prompts))} to "
    f"{max(map(len, prompts))} tokens, {same} of the texts equal"
  )
  print(f"tokens written: {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}")
  print(f"{'':14}{'tokens/s':>10}{'seconds':>10}{'first run':>11}")
  for name in sides:
    tokens = sum(map(len, first[name][0]))
    print(f"{name:14}{tokens / best[name]:10.1f}{best[name]:10.1f}{first[name][1]:11.1f}")
  speeds = {name: sum(map(len, first[name][0])) / best[name] for name in sides}
  print(f"ratio {speeds['ours'] / speeds['transformers']:.2f}")
  if jax.default_backend() != "cpu":
    print(f"share of memory bandwidth {bandwidth_share(model, prompts):.1%}")


if __name__ == "__main__":
  app.run(main)
