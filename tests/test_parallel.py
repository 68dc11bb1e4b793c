"""The mesh and where parameters lie on it, on 8 simulated devices."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from greedy_prune_jax import parallel
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models import huggingface
from greedy_prune_jax.models.layouts import LAYOUTS
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import MeshSettings, make_mesh, partition, weight_shardings
from greedy_prune_jax.runs.settings import read_settings
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import tiny_config, tiny_model

SPLIT = "VNKFISZ"  # axis letters of what lies along `model`
SWITCHES = {"vocab_size": 64, "num_key_value_heads": 4}  # sizes that four devices can share


def _mesh(data, model):
  return make_mesh(MeshSettings(data=data, model=model))


@pytest.mark.parametrize(
  ("data", "model", "shape"),
  [(0, 1, (8, 1)), (0, 2, (4, 2)), (2, 0, (2, 4)), (1, 8, (1, 8)), (3, 2, (3, 2)), (1, 1, (1, 1))],
)
def test_meshes(data, model, shape):
  mesh = _mesh(data, model)
  assert tuple(mesh.shape.items()) == (("data", shape[0]), ("model", shape[1]))
  assert list(mesh.devices.flat) == jax.local_devices()[: mesh.size]


@pytest.mark.parametrize(
  ("data", "model", "message"),
  [
    (0, 0, "mesh.data=0 and mesh.model=0: only one axis can take whatever is left"),
    (-1, 1, "mesh.data=-1; expected 0 or more"),
    (4, 4, "mesh.data=4, mesh.model=4 takes 16 devices; this process has 8, and a mesh does not"),
    (0, 3, "mesh.data=0, mesh.model=3: 3 does not divide the 8 devices of this process"),
    (0, 16, "16 does not divide the 8 devices"),
  ],
)
def test_meshes_that_cannot_be(data, model, message):
  with pytest.raises(UserError, match=message):
    _mesh(data, model)


def test_mesh_from_a_config():
  assert read_settings(MeshSettings, {"data": 2, "model": 0}, "a file") == MeshSettings(
    data=2, model=0
  )
  with pytest.raises(UserError, match="the config lacks model; see a file"):
    read_settings(MeshSettings, {"data": 2}, "a file")


@pytest.mark.parametrize("name", LAYOUTS)
def test_heads_widths_and_vocabulary_are_split_and_nothing_else(name):
  axes = ("L" if name.startswith("layers.") else "") + LAYOUTS[name].axes
  # A head's own width carries the same letter as the head, so only the first may be split.
  spec = partition(name, [8] * len(axes), _mesh(1, 8))
  split = ["model" if axis in SPLIT else None for axis in axes]
  assert list(spec) + [None] * (len(axes) - len(spec)) == split


def test_the_first_rule_that_fits_counts(monkeypatch):
  rules = (("layers.*", PartitionSpec("model")), (".*", PartitionSpec()))
  monkeypatch.setattr(parallel, "PARTITION_RULES", rules)
  assert partition("layers.mlp.gate", [8, 3], _mesh(1, 8)) == PartitionSpec("model")
  assert partition("head.layers", [8, 3], _mesh(1, 8)) == PartitionSpec()


def test_a_size_that_does_not_divide_is_named():
  with pytest.raises(UserError) as info:
    partition("layers.attention.k", [30, 576, 3, 64], _mesh(4, 2))
  assert str(info.value) == (
    "parameter layers.attention.k of shape [30, 576, 3, 64]: dimension 2, of size 3, cannot be "
    "split evenly over the mesh axis model of size 2; set mesh.model to a divisor of 3"
  )


@pytest.mark.parametrize("file_format", ["huggingface", "gguf"])
def test_each_device_is_given_its_share(tmp_path, file_format):
  model = tiny_model(tiny_config("llama", tie_word_embeddings=False, **SWITCHES))
  place = tmp_path / "model"
  model.save_pretrained(place)
  if file_format == "gguf":
    place = tmp_path / "model.gguf"
    write_gguf(place, model)
  whole = load_model(str(place), "float32")
  mesh = _mesh(2, 4)
  shared = load_model(str(place), "float32", shardings=weight_shardings(mesh))

  names = [".".join(map(str, path)) for path in nnx.to_flat_state(shared.params).paths]
  arrays, expected = jax.tree.leaves(shared.params), jax.tree.leaves(whole.params)
  for name, array, numbers in zip(names, arrays, expected, strict=True):
    np.testing.assert_array_equal(array, numbers)
    copies = 2 if any(axis in LAYOUTS[name].axes for axis in SPLIT) else 8
    held = sum(shard.data.size for shard in array.addressable_shards)
    assert held == copies * array.size, name
  assert parallel.mesh_of(shared.params) == mesh
  assert parallel.mesh_of(whole.params) is None
  # All but the norms is split four ways.
  norms = sum(x.nbytes for name, x in zip(names, arrays, strict=True) if "norm" in name)
  total = sum(x.nbytes for x in arrays)
  assert parallel.device_bytes(whole.params) == total
  assert parallel.device_bytes(shared.params) == (total - norms) // 4 + norms


def test_weights_are_read_share_by_share_and_once(tmp_path, monkeypatch):
  tiny_model(tiny_config("llama", **SWITCHES)).save_pretrained(tmp_path)
  reads = []
  read = huggingface._Checkpoint.read

  def record(checkpoint, name, index):
    block = read(checkpoint, name, index)
    reads.append((name, block.size))
    return block

  monkeypatch.setattr(huggingface._Checkpoint, "read", record)
  model = load_model(str(tmp_path), "float32")
  whole = dict(reads)
  reads.clear()
  load_model(str(tmp_path), "float32", shardings=weight_shardings(_mesh(2, 4)))
  # What two rows of the mesh hold alike is read once.
  assert sum(size for _, size in reads) == sum(x.size for x in jax.tree.leaves(model.params))
  for name, size in reads:
    share = 1 if "norm" in name else 4
    assert size == whole[name] // share, name
