"""Memory while a checkpoint of many shards is read: one copy of the weights, and a little more."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.helpers.reference import tiny_config

# Qwen3-30B-A3B's shape, each size a part of its own: nearly all of it are the experts' weights.
SIZES = {
  "vocab_size": 512,
  "hidden_size": 256,
  "head_dim": 32,
  "num_hidden_layers": 24,
  "num_experts": 32,
  "moe_intermediate_size": 128,
}

# Anonymous memory alone: pages of mapped files are the system's to take back.
LOAD = """
import sys, threading, time
import jax
from greedy_prune_jax.models.pretrained import load_model

def held():
  lines = open("/proc/self/status").read().splitlines()
  return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

jax.block_until_ready(jax.numpy.zeros(8) + 1)
before = peak = held()
done = threading.Event()

def watch():
  global peak
  while not done.wait(0.0005):
    peak = max(peak, held())

watcher = threading.Thread(target=watch)
watcher.start()
model = load_model(sys.argv[1], "float32")
done.set()
watcher.join()
size = sum(x.nbytes for x in jax.tree.leaves(model.params))
print(size, max(peak, held()) - before)
"""


def _write(folder, experts_in_one):
  """Random weights, by tensors' names, in one file for each layer and part of it."""
  config = tiny_config("qwen3_moe", **SIZES)
  config.save_pretrained(folder)
  rng = np.random.default_rng(0)
  d, e, i = (SIZES[key] for key in ("hidden_size", "num_experts", "moe_intermediate_size"))
  heads = {"q": 4, "k": 2, "v": 2, "o": 4}
  files = {"ends": {"model.embed_tokens.weight": (512, d), "lm_head.weight": (512, d)}}
  files["ends"]["model.norm.weight"] = (d,)
  for layer in range(SIZES["num_hidden_layers"]):
    at = f"model.layers.{layer}."
    shapes = {f"{at}self_attn.{name}_proj.weight": (32 * n, d) for name, n in heads.items()}
    shapes[f"{at}self_attn.o_proj.weight"] = (d, 32 * heads["o"])
    shapes |= {f"{at}self_attn.{name}_norm.weight": (32,) for name in ("q", "k")}
    shapes |= {f"{at}{name}_layernorm.weight": (d,) for name in ("input", "post_attention")}
    shapes[f"{at}mlp.gate.weight"] = (e, d)
    if experts_in_one:
      shapes[f"{at}mlp.experts.gate_up_proj"] = (e, 2 * i, d)
      shapes[f"{at}mlp.experts.down_proj"] = (e, d, i)
    for expert in range(0 if experts_in_one else e):
      for name, shape in (("gate", (i, d)), ("up", (i, d)), ("down", (d, i))):
        shapes[f"{at}mlp.experts.{expert}.{name}_proj.weight"] = shape
    names = sorted(shapes)
    for part in range(2):
      files[f"{layer}-{part}"] = {name: shapes[name] for name in names[part::2]}
  for file, shapes in files.items():
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / f"model-{file}.safetensors")
  weight_map = {n: f"model-{file}.safetensors" for file, shapes in files.items() for n in shapes}
  index = {"weight_map": weight_map}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  assert len(files) == 49


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("experts_in_one", [False, True])
def test_one_copy_of_the_weights_is_held(experts_in_one, tmp_path):
  _write(tmp_path, experts_in_one)
  done = subprocess.run(
    [sys.executable, "-c", LOAD, tmp_path], capture_output=True, text=True, check=True
  )
  size, peak = map(int, done.stdout.split())
  print(f"{size / 2**20:.0f} MiB of weights, {peak / 2**20:.0f} MiB at most")
  assert size > 250 * 2**20
  assert peak < 1.1 * size
