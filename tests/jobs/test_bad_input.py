"""Everything that a user can get wrong: one message that says what, where and what to do."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import processes
from tests.helpers.gguf_files import write_gguf
from tests.helpers.reference import tiny_config, tiny_model
from tests.helpers.tiny_runs import CHAINS, CONTEXT, make_model, records, skipped, write_chains


def error_of(job):
  """The message that a failed job ends with."""
  assert job.wait() == 1, job.stdout + job.stderr
  assert "Traceback" not in job.stderr
  *log, message = re.split(r"^error: ", job.stderr, flags=re.MULTILINE)
  assert len(log) == 1, "one error"
  assert not re.search(r"^[IWEF]\d{4} |it/s|pos/s", message, re.MULTILINE), "nothing after it"
  return message


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.keep_ratio=0.5", 'no such name: .*mean "keep_ratios" instead of "keep_ratio".*file'),
    (
      "--config.chain=x",
      'no such name: \'chain\'. Did you mean "chains" instead of "chain"[?]; the',
    ),
    ("--config.workdir=x", "no such name: workdir; it is a flag of its own: --workdir=VALUE"),
    ("--keep_ratios=0.5", "line flag 'keep_ratios'; did you mean --config.keep_ratios[?]$"),
    ("--screen.margin=2", "line flag 'screen.margin'; did you mean --config.screen.margin[?]$"),
    ("--config.num_chains.x=1", r"no such name: .*num_chains\.x"),
    ("--confg.seed=1", "Unknown command line flag 'confg.seed'.*--helpshort lists"),
    ("--config.num_chains=few", "flag --config.num_chains=few: invalid literal for int"),
    ("--config.num_chains=1.5", "flag --config.num_chains=1.5: invalid literal for int"),
    ("--config.compilation_cache=maybe", "--config.compilation_cache=maybe: .*boolean"),
    ("--config.num_chains=-1", "num_chains=-1; expected 0 or more"),
    ("--config.batch_size=-2", "batch_size=-2; expected 0 or more"),
    ("--config.show_chains=-1", "show_chains=-1; expected 0 or more"),
    ("--config.objective=jiont", "objective='jiont'; expected one of joint, answer"),
    ("--config.search=fast", "search='fast'; expected one of exact"),
    ("--config.unit=line", "unit='line'; expected one of token, word, sentence"),
    ("--config.dtype=float16", "dtype='float16'; expected one of float32, bfloat16"),
    ("--config.attention=flash", "attention='flash'; expected one of xla, pallas"),
    ("--config.on_bad_chain=stop", "on_bad_chain='stop'; expected one of error, skip"),
    (
      "--config.keep_ratios=abc",
      r"keep_ratios=\('abc',\) has 'abc'; expected a number",
    ),
    ("--config.keep_ratios=(0.5", r"keep_ratios=\('\(0.5',\) has '\(0.5'; expected a number"),
    ("--config.keep_ratios=1.0", r"keep_ratios=\(1.0,\) has 1.0; .* from 0 to below 1"),
    ("--config.keep_ratios=(0.5,-0.1)", r"has -0.1; .* from 0 to below 1"),
    ("--config.keep_ratios=1e999", "keep_ratios=inf; expected a finite number"),
    ("--config.keep_ratios=()", "keep_ratios is empty; expected a tuple such as"),
    ("--config.keep_ratios=(0.5,0.5)", r"keep_ratios=\(0.5, 0.5\) repeats a ratio"),
    ("--workdir=", "--workdir is missing; expected --config=FILE --workdir=DIR"),
    ("chains.jsonl", "stray arguments: chains.jsonl; settings are passed as --config.NAME=VALUE"),
  ],
)
def test_flags(start, tmp_path, flag, message):
  assert re.search(message, error_of(start(flag)))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (None, "cannot read --config=.*config.py; expected a Python file.*No such file"),
    ("def get_config():\n  return {'seed': 1}", r"config.py: its get_config\(\) returns dict"),
    ("x = 1", "no attribute 'get_config"),
    ("del config.search", "the config lacks search; see configs/prune.py"),
    ("config.sarch = 'exact'", "the config has unknown keys: sarch; see configs/prune.py"),
    ("config.batch_size = '3'", r"config.py, line \d+: TypeError: .*'batch_size'"),
    ("config.chains = nothing", r"config.py, line \d+: NameError: name 'nothing' is not defined"),
    ("config.chains = [", r"config.py, line \d+"),
    ("import nothing", r"config.py, line \d+: ModuleNotFoundError: No module named 'nothing'"),
    ("del config.seed; config.seed = '3'", "seed='3'; expected a whole number; see configs/"),
    ("del config.chains; config.chains = None", "chains=None; expected a string; see configs/"),
    ("del config.keep_ratios; config.keep_ratios = 0.5", "keep_ratios=0.5; expected a tuple"),
  ],
)
def test_config_files(start, tmp_path, text, message):
  path = tmp_path / "config.py"
  if text is not None:
    whole = (
      Path("configs/prune.py").read_text().replace("return config", text + "\n  return config")
    )
    path.write_text(text if text.startswith(("def", "x")) else whole)
  # The shared settings would be flags, which come after the config file.
  assert re.search(message, error_of(start(config=path, bare=True)))


@pytest.mark.parametrize("argv", [[], ["--workdir=here"], ["--config=configs/prune.py"]])
def test_missing_flags(tmp_path, argv):
  message = error_of(processes.start(tmp_path / "process", *argv))
  missing = "workdir" if "--config=configs/prune.py" in argv else "config"
  assert message == f"--{missing} is missing; expected --config=FILE --workdir=DIR\n"


def test_help_is_no_error(start):
  job = start("--helpshort", bare=True)
  job.wait()  # with whatever status absl gives
  assert "--workdir: Folder of the run" in job.stdout
  assert "Traceback" not in job.stderr


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"chains": "nowhere.jsonl"}, "nowhere.jsonl does not exist; expected a file of chains,"),
    ({"chains": "mmlu_pro"}, "mmlu_pro has no worked solutions to prune; pass a file of chains"),
    (
      {"pruner": "/nowhere/model"},
      "/nowhere/model: there is no such folder or file. Pass a folder",
    ),
    ({"pruner": "nobody/nothing"}, "nobody/nothing: there is no such folder, and fetching it from"),
    ({"pruner": "configs/prune.py"}, "neither a folder nor a file whose name ends in .gguf"),
    ({"chat_template": "nowhere.jinja"}, "chat_template=nowhere.jinja cannot be read.*Expected"),
  ],
)
def test_names_of_nothing(start, settings, message):
  assert re.search(message, error_of(start(**settings)))


def _edit_config(folder, **values):
  path = folder / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-100])
  return path


def _tiny_gguf(folder, **kwargs):
  write_gguf(folder / "model.gguf", tiny_model(tiny_config("llama")), **kwargs)
  return folder / "model.gguf"


@pytest.mark.slow
@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (
      lambda f: _edit_config(f, model_type="mamba"),
      r"config.json: model_type 'mamba' is not supported; supported are llama, mistral, ministral",
    ),
    (
      lambda f: _edit_config(f, quantization_config={"bits": 4}),
      r"quantization_config has quant_method=None, .* expected float weights, mxfp4, or fp8 with",
    ),
    (
      lambda f: _truncate(f / "model.safetensors") and None,
      r"model.safetensors: not a readable safetensors file .* cut short: .* download it again",
    ),
    (
      lambda f: (f / "model.safetensors").unlink(),
      r"model.safetensors: there is no such file; weights are read from safetensors",
    ),
    (
      lambda f: (f / "tokenizer.json").unlink(),
      r"tokenizer.json: there is no such file.*save_pretrained",
    ),
    (
      lambda f: (f / "chat_template.jinja").unlink(),
      r"this tokenizer has no chat template of its own.*Pass chat_template=plain",
    ),
    (
      lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
      r"chat_template=tokenizer cannot be used: .*Pass another, or chat_template=plain",
    ),
    (
      lambda f: _truncate(_tiny_gguf(f)),
      r"model.gguf: cut short: tensor .* ends at byte \d+, the file at \d+. Download it again.",
    ),
    (
      lambda f: _tiny_gguf(f, tensors={"extra.weight": np.zeros((2, 32), np.int8)}),
      r"model.gguf: tensor 'extra.weight' is stored as I8, .*supported are F32, F16",
    ),
  ],
)
def test_models(start, shared, tmp_path, damage, message):
  folder = tmp_path / "model"
  shutil.copytree(shared / "model", folder)
  place = damage(folder)
  job = start(pruner=place if isinstance(place, Path) else folder)
  assert re.search(message, error_of(job))


GOOD = CHAINS[0]
BAD_LINES = [
  ('{"id": "x", ', r"is not JSON \(.*\); expected an object"),
  ("[1]", "is a JSON list; expected an object"),
  (
    {key: GOOD[key] for key in GOOD if key != "answer"},
    "is of no known form .its keys: id, question, reasoning.; of the form chain it lacks 'answer'",
  ),
  (GOOD | {"question": "  "}, '"question" is empty'),
  (GOOD | {"reasoning": ["a"]}, '"reasoning" must be a string, not a list'),
  (GOOD | {"id": 7}, '"id" must be a string, not a whole number'),
  (GOOD | {"reasoning": ""}, '"reasoning" is empty'),
  (CHAINS[2], 'repeats the id "chain 2" of .*chains.jsonl, line 1'),
]
BAD_LENGTHS = [
  (GOOD | {"reasoning": "7"}, "chain chain 0: its reasoning '7' is 1 token; .* at least 2"),
  (
    GOOD | {"reasoning": "7 " * CONTEXT},
    rf"chain chain 0: it has \d+ tokens .*more than the model's context of {CONTEXT}; leave it out",
  ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_stops_the_run(start, tmp_path, line, message):
  path = write_chains(tmp_path / "chains.jsonl", [CHAINS[2], line])
  assert re.search(rf"chains.jsonl, line 2: {message}", error_of(start(chains=path)))


@pytest.mark.slow
@pytest.mark.parametrize(("line", "message"), BAD_LENGTHS)
def test_a_chain_of_a_bad_length_stops_the_run(start, tmp_path, line, message):
  path = write_chains(tmp_path / "chains.jsonl", [CHAINS[2], line])
  assert re.search(message, error_of(start(chains=path)))


@pytest.mark.slow
def test_bad_chains_are_skipped_and_recorded(start, run, tmp_path):
  bad = [(line, message) for line, message in BAD_LINES + BAD_LENGTHS]
  # Distinct ids: a bad line is no reason to call another one a repetition.
  bad = [
    (x | {"id": f"bad {i}"} if isinstance(x, dict) and x.get("id") == "chain 0" else x, message)
    for i, (x, message) in enumerate(bad)
  ]
  path = write_chains(tmp_path / "chains.jsonl", [CHAINS[2], *(line for line, _ in bad), CHAINS[0]])
  job = run(chains=path, on_bad_chain="skip")
  assert records(tmp_path / "run").keys() == {"chain 2", "chain 0"}
  left_out = skipped(tmp_path / "run")
  assert len(left_out) == len(bad)
  for i, (record, (line, message)) in enumerate(zip(left_out, bad, strict=True)):
    assert record.keys() == {"place", "id", "reason"}
    assert re.search(message.replace("chain chain 0", r"chain bad \d"), record["reason"])
    assert record["id"] == (str(line["id"]) if isinstance(line, dict) else None)
    assert record["place"] == (f"{path}, line {i + 2}" if i < len(BAD_LINES) else "")
    assert f"left out {record['place'] or record['id']}: " in job.stderr
  # Again, they are read again, and are not recorded twice.
  run(chains=path, on_bad_chain="skip")
  assert skipped(tmp_path / "run") == left_out
  # A run that takes them for errors adds nothing.
  assert "line 2: is not JSON" in error_of(start(chains=path))
  assert records(tmp_path / "run").keys() == {"chain 2", "chain 0"}


@pytest.mark.slow
@pytest.mark.parametrize(
  "bad", [*(line for line, _ in BAD_LENGTHS), GOOD | {"reasoning": "<think>It never ends. "}]
)
def test_good_chains_behind_bad_ones_are_read(start, run, tmp_path, bad):
  path = write_chains(tmp_path / "chains.jsonl", [bad | {"id": "bad"}, *CHAINS])
  settings = {"chains": path, "on_bad_chain": "skip", "keep_ratios": 0.9}
  dry = run(**settings, num_chains=2, dry_run=True, **{"plan.peak_flops": 1e12})
  assert "chains  2, with " in dry.stdout
  for number in (1, 2):
    job = run(**settings, num_chains=number)
    assert [*records(tmp_path / "run")] == [f"chain {i}" for i in range(number)]
    assert "chains asked for" not in job.stderr
  assert "only 3 of the 5 chains asked for" in run(**settings, num_chains=5).stderr


def test_nothing_but_bad_chains(start, tmp_path):
  path = write_chains(tmp_path / "chains.jsonl", ["{}", "no"])
  message = error_of(start(chains=path, on_bad_chain="skip"))
  assert re.search(
    r"chains.jsonl has no chain that can be pruned; see .*run/skipped.jsonl", message
  )
  assert len(skipped(tmp_path / "run")) == 2


def test_no_chain_is_short_enough(start, tmp_path):
  message = error_of(start(max_reasoning_tokens=2))
  assert re.search(r"has no chain of at most max_reasoning_tokens=2 tokens that can be", message)
  assert "skipped.jsonl" not in message


def test_an_empty_file(start, tmp_path):
  message = error_of(start(chains=write_chains(tmp_path / "chains.jsonl", [])))
  assert re.search(r"chains.jsonl is empty; expected chains", message)


@pytest.mark.slow
def test_a_mistake_in_the_first_command_does_not_bind_the_workdir(start, run, tmp_path):
  error_of(start(chains=tmp_path / "typo.jsonl"))
  run(num_chains=1)
  assert len(records(tmp_path / "run")) == 1


@pytest.mark.parametrize("place", ["/proc/here", "/dev/null/here", "{tmp}/file", "{tmp}/file/here"])
def test_workdirs_that_cannot_be_written(start, tmp_path, place):
  (tmp_path / "file").write_text("mine")
  message = error_of(start(workdir=place.format(tmp=tmp_path)))
  assert re.search(r"cannot write .*: .*Choose a workdir in a folder that you can write", message)
  assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_the_workdir_of_another_config(start, run, tmp_path):
  run(num_chains=1)
  before = records(tmp_path / "run")
  message = error_of(start(num_chains=1, objective="answer", keep_ratios=0.3, batch_size=2))
  assert re.search(r"run belongs to another config. These keys differ:\n", message)
  assert '  objective: was "joint", is "answer"\n' in message
  assert "  keep_ratios: was [0.9, 0.7, 0.5], is [0.3]\n" in message
  assert "batch_size" not in message  # which may change
  assert "Go on with the old values, or choose another workdir." in message
  assert records(tmp_path / "run") == before
  run(num_chains=1, batch_size=2)
  run(num_chains=1, **{"screen.window": 3})  # which exact search does not read


@pytest.mark.slow
def test_how_a_screened_search_screens_may_not_change(start, run):
  run(num_chains=1, search="screened")
  message = error_of(start(num_chains=1, search="screened", **{"screen.window": 3}))
  assert re.search(r"These keys differ:\n  screen.window: was 4, is 3\n", message)


def test_a_template_of_ones_own_that_does_not_work(start, tmp_path):
  path = tmp_path / "template.jinja"
  path.write_text("{{ messages[0].content }")
  message = error_of(start(chat_template=path))
  assert re.search(
    r"template.jinja cannot be used: .*Pass another, or chat_template=plain", message
  )


@pytest.mark.slow
def test_a_base_model_needs_the_plain_template(run, tmp_path):
  make_model(tmp_path / "base", chat_template=None)
  run(pruner=tmp_path / "base", chat_template="plain", num_chains=1)
  assert len(records(tmp_path / "run")) == 1
