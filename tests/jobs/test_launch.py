"""The files in launch/, without their platforms: what each would run is run here, on CPU."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.tiny_runs import CHAINS, records

REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / "launch"
JOB = ["-m", "greedy_prune_jax.jobs.prune", "--distributed"]

# A platform's command does with its arguments what matters here: it starts the job, as often as
# there are tasks, or "on the host" that is the current folder.
SRUN = """#!/bin/bash
[[ $1 == --kill-on-bad-exit=1 && $2 == --cpus-per-task=3 ]] || exit 99
shift 2
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=0 "$@" & done
for job in $(jobs -p); do wait "$job" || exit 1; done
"""
GCLOUD = """#!/bin/bash
[[ "$*" == "compute tpus tpu-vm ssh my-slice --zone=my-zone --worker=all --command="* ]] || exit 99
last=${!#}
bash -c "${last#--command=}"
"""


@pytest.fixture
def clone(tmp_path):
  """A folder with the clone as a host would have it, its .venv being ours."""
  folder = tmp_path / "greedy_prune_jax"
  (folder / ".venv" / "bin").mkdir(parents=True)
  for name in ("greedy_prune_jax", "configs"):
    (folder / name).symlink_to(REPOSITORY / name)
  _write_program(folder / ".venv" / "bin" / "python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
  return folder


@pytest.fixture
def environment(clone, tmp_path):
  """Variables for a job on one CPU device; programs in `bin` come first."""
  (tmp_path / "bin").mkdir()
  _write_program(tmp_path / "bin" / "srun", SRUN)
  _write_program(tmp_path / "bin" / "gcloud", GCLOUD)
  return os.environ | {
    "PATH": f"{tmp_path / 'bin'}:{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
  }


@pytest.fixture
def flags(shared, tmp_path):
  """Arguments of a small run."""
  return [
    "--config=configs/prune.py",
    f"--workdir={tmp_path / 'run'}",
    f"--config.pruner={shared / 'model'}",
    f"--config.chains={shared / 'chains.jsonl'}",
    "--config.num_chains=0",
    "--config.keep_ratios=(0.9,0.8)",
  ]


def _write_program(path, text):
  path.write_text(text)
  path.chmod(0o755)


def _free_port(lowest=0):
  for port in range(lowest, 65536):
    with socket.socket() as free:
      try:
        free.bind(("localhost", port))
      except OSError:
        continue
      return free.getsockname()[1]
  raise AssertionError("no port is free")


def _assert_complete(tmp_path, num_processes):
  assert records(tmp_path / "run").keys() == {chain["id"] for chain in CHAINS}
  files = [*(tmp_path / "run" / "pruned").iterdir()]
  assert len(files) == num_processes
  assert all(file.stat().st_size for file in files)


@pytest.mark.parametrize("name", ["slurm.sh", "tpu.sh"])
def test_scripts_are_bash(name):
  subprocess.run(["bash", "-n", LAUNCH / name], check=True)


def _dry_run(name, *argv):
  script = subprocess.run(
    ["bash", LAUNCH / name, *argv],
    env={"PATH": os.environ["PATH"], "DRY_RUN": "1"},
    check=True,
    capture_output=True,
    text=True,
  )
  return shlex.split(script.stdout)


def test_slurm_prints_what_it_would_run(flags):
  command = _dry_run("slurm.sh", *flags)
  srun = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=1"]
  assert command == [*srun, ".venv/bin/python", *JOB, *flags]


def test_slurm_asks_for_one_task_a_node():
  lines = (LAUNCH / "slurm.sh").read_text().splitlines()
  options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
  asked = dict(option.split("=") for option in options if "=" in option)
  assert asked["ntasks-per-node"] == "1"
  assert int(asked["gpus-per-node"]) > 0


@pytest.mark.slow
def test_slurm_runs_it(environment, flags, clone, tmp_path):
  port = _free_port(65536 - 4096)  # JAX derives it from the job's number
  slurm = {
    "SLURM_JOB_ID": str(port - (65536 - 4096)),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_GPUS_ON_NODE": "2",
    "SLURM_CPUS_PER_TASK": "3",
  }
  argv = ["bash", LAUNCH / "slurm.sh", *flags]
  subprocess.run(argv, env=environment | slurm, cwd=clone, check=True)
  _assert_complete(tmp_path, 2)


def test_tpu_prints_what_it_would_run(flags):
  *command, job = _dry_run("tpu.sh", "my-slice", "my-zone", *flags)
  assert command == [
    *("gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-slice"),
    *("--zone=my-zone", "--worker=all"),
  ]
  assert shlex.split(job.removeprefix("--command=")) == [
    *("cd", "greedy_prune_jax", "&&", ".venv/bin/python", *JOB, *flags)
  ]


def test_tpu_needs_a_slice():
  script = subprocess.run(["bash", LAUNCH / "tpu.sh"], capture_output=True, text=True)
  assert script.returncode != 0
  assert "the first argument is the name of the TPU pod slice" in script.stderr


@pytest.mark.slow
def test_tpu_runs_it(environment, flags, tmp_path):
  # On a slice JAX finds these out.
  alone = [f"--coordinator=localhost:{_free_port()}", "--num_processes=1", "--process_id=0"]
  argv = ["bash", LAUNCH / "tpu.sh", "my-slice", "my-zone", *flags, *alone]
  subprocess.run(argv, env=environment, cwd=tmp_path, check=True)
  _assert_complete(tmp_path, 1)


@pytest.fixture(scope="module")
def jobset():
  return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def test_the_jobset_fits_together(jobset):
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (workers,) = jobset["spec"]["replicatedJobs"]
  job = workers["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  values = {variable["name"]: variable["value"] for variable in container["env"]}
  assert job["completionMode"] == "Indexed"  # else pods have no number
  assert job["parallelism"] == job["completions"] == int(values["NUM_PROCESSES"])
  assert workers["replicas"] == 1
  name = jobset["metadata"]["name"]
  assert values["COORDINATOR"].split(":")[0] == f"{name}-{workers['name']}-0-0.{name}"
  assert {mount["name"] for mount in container["volumeMounts"]} == {
    volume["name"] for volume in pod["volumes"]
  }
  (mount,) = container["volumeMounts"]
  (workdir,) = [flag for flag in container["args"] if flag.startswith("--workdir=")]
  assert workdir.startswith(f"--workdir={mount['mountPath']}/")


@pytest.mark.slow
def test_the_jobset_runs_it(jobset, environment, flags, clone, tmp_path):
  (workers,) = jobset["spec"]["replicatedJobs"]
  (container,) = workers["template"]["spec"]["template"]["spec"]["containers"]
  values = {variable["name"]: variable["value"] for variable in container["env"]}
  values["COORDINATOR"] = f"localhost:{_free_port()}"
  assert {flag.split("=")[0] for flag in container["args"]} == {"--config", "--workdir"}
  pods = [
    subprocess.Popen(
      [*container["command"], *flags],
      env=environment | values | {"JOB_COMPLETION_INDEX": str(index)},
      cwd=clone,
    )
    for index in range(int(values["NUM_PROCESSES"]))
  ]
  assert [pod.wait() for pod in pods] == [0, 0]
  _assert_complete(tmp_path, 2)


@pytest.mark.slow
def test_skypilot_runs_it(environment, flags, clone, tmp_path):
  task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
  assert task["num_nodes"] > 1
  assert task["resources"]["accelerators"]
  (volume,) = task["volumes"]
  assert f"--workdir={volume}/" in task["envs"]["ARGS"]
  sky = {
    "SKYPILOT_NODE_IPS": "127.0.0.1\n",
    "SKYPILOT_NUM_NODES": "1",
    "SKYPILOT_NODE_RANK": "0",
    "ARGS": " ".join(flags),
  }
  subprocess.run(["bash", "-c", task["run"]], env=environment | sky, cwd=clone, check=True)
  _assert_complete(tmp_path, 1)
