"""Set-up of all tests: no network, 8 simulated devices, shapes checked, no silent broadcasting."""

import collections
import gc
import os
import tempfile
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# PyTorch's second thread waits by spinning: on a busy machine one search of an oracle took 2 to 3 s
# of processors with it, and 0.1 s without.
os.environ["OMP_NUM_THREADS"] = "1"
# Unoptimised code: it compiles five times faster, and tiny models need no speed.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    # Twice as fast again. Later releases end at a flag that they do not know.
    *(["--xla_cpu_use_fusion_emitters=false"] if version("jax").startswith("0.10.") else []),
  ]
)

# Nor need programs say which line each of their operations comes from.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# What one test compiles is there for all others, those of the other process and of jobs that run as
# programs too.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix="greedy_prune_tests_")
  os.environ["XDG_CACHE_HOME"] = _cache.name

import jax
import pytest
from jaxtyping import install_import_hook

# Traces are made of many small objects that live long: to look through them all was 8% of the time.
gc.set_threshold(1_000_000, 20, 50)

# Annotations of the package are checked at every call; must come before its first import. The tower
# is Python's own rule that an int will do where a float is asked for.
install_import_hook(
  "greedy_prune_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# An axis that is missing is a mistake until it is added in writing.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
  from greedy_prune_jax.jobs.entry import keep_compilations  # after the hook

  keep_compilations()
  # Flax annotates with typing.Hashable, which beartype calls outdated.
  config.addinivalue_line(
    "filterwarnings", "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
  )
  # xdist's `loadfile` begins with the files of most tests, which are not the longest; see below.
  if hasattr(config.option, "loadscopereorder"):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
  """Begins with the files of most slow tests: none of them is left for one process at the end."""
  num_slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
  items.sort(key=lambda item: -num_slow[item.path])


@pytest.fixture(autouse=True, scope="module")
def programs_are_given_back():
  """Drops a file's programs: each takes mappings of memory, of which Linux allows 65,530."""
  yield
  jax.clear_caches()


def pytest_terminal_summary(terminalreporter):
  """Shows where the time went, folder by folder and in the slowest files."""
  seconds = collections.Counter()
  for reports in terminalreporter.stats.values():
    for report in reports:
      if hasattr(report, "duration"):
        file = report.nodeid.split("::")[0]
        folder = "/".join(file.split("/")[:-1][:2])
        seconds[f"{folder}/"] += report.duration
        seconds[file] += report.duration
  whole = sum(value for place, value in seconds.items() if place.endswith("/"))
  if whole > 60:
    folders = [item for item in seconds.most_common() if item[0].endswith("/")]
    files = [item for item in seconds.most_common() if not item[0].endswith("/")]
    for place, value in [*folders, *files[:30]]:
      terminalreporter.write_line(f"{value:7.0f} s {value / whole:4.0%}  {place}")
