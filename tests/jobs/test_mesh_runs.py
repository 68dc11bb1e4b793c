"""Runs of the prune job on several devices of one process."""

import os

import numpy as np
import pytest

from tests.helpers.tiny_runs import records

SIX_DEVICES = {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=6")}


@pytest.mark.slow
def test_devices_and_settings_of_the_mesh_do_not_change_a_run(run, run_program, tmp_path):
  run(workdir="one", show_chains=0)
  run_program(workdir="many", show_chains=0, env=SIX_DEVICES)
  one, many = records(tmp_path / "one"), records(tmp_path / "many")
  assert one.keys() == many.keys()
  for key, record in one.items():
    for name, values in record.pop("nll").items():
      np.testing.assert_allclose(many[key]["nll"].pop(name), values, atol=1e-5)
    assert not many[key].pop("nll")
    assert record == many[key]
  job = run_program(workdir="many", show_chains=1, env=SIX_DEVICES, **{"mesh.data": 2})
  assert "mesh.data=2, mesh.sequence=1, mesh.model=1: 4 devices stay idle" in job.stderr
  assert "mean NLL of 3 chains" in job.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"mesh.data": 7}, "mesh.sequence=1, mesh.model=1 takes 7 devices; this process has 6, and"),
    ({"mesh.model": 4}, "mesh.sequence=1, mesh.model=4: 4 does not divide the 6 devices of"),
    ({"mesh.sequence": 4}, "mesh.sequence=4, mesh.model=1: 4 does not divide the 6 devices of"),
    ({"mesh.model": 0}, "error: mesh.data=0 and mesh.model=0: only one axis can take whatever is"),
    (
      {"mesh.model": 6},
      "cannot be split evenly over the mesh axis model of size 6; set",
    ),
  ],
)
def test_meshes_that_cannot_be(start, settings, message):
  job = start(env=SIX_DEVICES, **settings)
  assert job.wait() == 1
  assert message in job.stderr
  assert "Traceback" not in job.stderr
