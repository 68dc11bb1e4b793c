"""Families of models by the names that files give them.

A family whose layers `decoder` computes already is a `Family` in one of the files of records, and
nothing else but rows of tests: readers, the writer and messages go by these records.
"""

from greedy_prune_jax.models.families_gemma import GEMMA
from greedy_prune_jax.models.families_other import OTHERS
from greedy_prune_jax.models.families_qwen import QWEN
from greedy_prune_jax.models.family import Family

_ALL = (*OTHERS, *QWEN, *GEMMA)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
_WITH_WINDOWS = {family.gguf.with_windows for family in _ALL if family.gguf}
GGUF_FAMILIES: dict[str, Family] = {
  f.gguf.architecture: f for f in _ALL if f.gguf and f.name not in _WITH_WINDOWS
}
WRAPPERS: dict[str, Family] = {f.wrapper: f for f in _ALL if f.wrapper}
