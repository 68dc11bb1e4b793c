"""Every reader of what users, models and earlier runs give, on what none of them should give.

A case is taken or ends in a UserError: no other exception, no hang, no memory beyond a limit.
Models are in `tests/models/test_mutations.py` too, endpoints in `tests/teachers/test_fuzz.py`,
whole jobs in `tests/jobs/test_fuzz.py`. Other cases: FUZZ_SEED=7 pytest tests/test_fuzz.py
"""

import contextlib
import dataclasses
import gzip
import json
import random
import shutil

import numpy as np
import pytest

from greedy_prune_jax.analysis.feature_store import build_store, open_store
from greedy_prune_jax.analysis.label_files import labels_to_record, read_labels
from greedy_prune_jax.analysis.model_annotator import parse_reply
from greedy_prune_jax.analysis.settings import AnalyzeSettings
from greedy_prune_jax.chains import answers
from greedy_prune_jax.chains.categories import Category
from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.chat_template import ChatTemplate, load_chat_template
from greedy_prune_jax.chains.formats import FORMATS, ColumnSettings
from greedy_prune_jax.chains.kept_chains import read_kept
from greedy_prune_jax.chains.question_sets import load_questions
from greedy_prune_jax.chains.reading import describe_first, read_chains, read_pruned
from greedy_prune_jax.distill.checkpoints import Checkpoints, TrainProgress
from greedy_prune_jax.distill.export import settings_of
from greedy_prune_jax.distill.metrics import MetricsLog
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.distill.step import init_state
from greedy_prune_jax.drp import summary as drp_summary
from greedy_prune_jax.drp.asking import read_reply
from greedy_prune_jax.drp.checks import RefusedReplyError
from greedy_prune_jax.drp.items import Item
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.drp.stages import DECOMPOSE, EDIT, WRITE
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.candidates import parse_entries, weights_digest
from greedy_prune_jax.evaluation.pruned.run import pruned_accuracy_table, read_pruned_answers
from greedy_prune_jax.evaluation.pruned.settings import EvaluatePrunedSettings
from greedy_prune_jax.evaluation.run import by_run, read_evaluation
from greedy_prune_jax.evaluation.scores import accuracy_table, pairs_table
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.models.pretrained import (
  load_config,
  load_model,
  load_stop_ids,
  load_tokenizer,
)
from greedy_prune_jax.pruning.budget import parse_budgets
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.pruning.show import format_mean_nlls, format_pruned
from greedy_prune_jax.publish.settings import PublishSettings
from greedy_prune_jax.rankings.attention_regression import TokenCounts, load_ranking, save_ranking
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.sample.settings import SampleSettings
from greedy_prune_jax.sample.summary import format_samples, format_summary, read_samples, summarise
from greedy_prune_jax.study.settings import StudySettings
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers import teacher_forms as forms
from tests.helpers import thinking_templates
from tests.helpers.attacks import attack, is_taken, mutated, mutated_text, refusal
from tests.helpers.format_examples import EXAMPLES
from tests.helpers.gguf_files import write_gguf
from tests.helpers.planted import pruned_chain, random_segments, tiny_model
from tests.helpers.reference import tiny_config
from tests.helpers.reference import tiny_model as reference_model
from tests.helpers.tiny_runs import CHAINS, TEMPLATE, make_model
from tests.helpers.tiny_student import settings as distill_settings
from tests.helpers.tokenizers_for_tests import byte_level

pytestmark = pytest.mark.slow


def write_lines(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return path


def read_all_chains(path):
  describe_first(str(path), ColumnSettings())
  chains = list(read_chains(str(path)))
  bad = []
  list(read_chains(str(path), on_bad=bad.append))
  assert not bad, "else the line before refuses it"
  return chains


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_chains(name, tmp_path):
  write_lines(tmp_path / "good" / "chains.jsonl", EXAMPLES[name])
  refused = attack(
    tmp_path / "good", lambda f: read_all_chains(f / "chains.jsonl"), tmp_path, cases=40, name=name
  )
  assert refused > 5


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".jsonl.gz", ".jsonl.zst", ".parquet.gz"])
def test_files_of_chains(suffix, tmp_path):
  import pyarrow
  import pyarrow.parquet

  path = tmp_path / "good" / f"chains{suffix}"
  path.parent.mkdir()
  lines = "".join(json.dumps(chain) + "\n" for chain in CHAINS).encode()
  if suffix == ".json":
    path.write_text(json.dumps(CHAINS))
  elif suffix.startswith(".parquet"):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CHAINS), sink)
    data = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
  elif suffix.endswith(".gz"):
    path.write_bytes(gzip.compress(lines))
  else:
    with pyarrow.output_stream(str(path), compression="zstd") as file:
      file.write(lines)
  attack(
    tmp_path / "good", lambda f: read_all_chains(f / path.name), tmp_path, cases=80, name=suffix
  )


def test_folders_of_thought_anchors(tmp_path):
  folder = tmp_path / "good" / "problem_1"
  folder.mkdir(parents=True)
  for name, value in EXAMPLES["thought_anchors"].items():
    (folder / name).write_text(json.dumps(value))
  attack(tmp_path / "good", read_all_chains, tmp_path, cases=60, name="anchors")


@pytest.mark.parametrize(
  ("name", "row"),
  [
    ("gsm8k", {"question": "2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4"}),
    ("math", {"problem": "p", "solution": r"so $\boxed{\frac{1}{2}}$", "level": 5}),
    ("aime", {"problem": "p", "answer": "033", "id": 7}),
    ("amc", {"problem": "p", "answer": 142.0}),
    ("mmlu_pro", {"question": "q", "options": ["a", "b"], "answer": "B", "answer_index": 1}),
  ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_question_sets(name, row, suffix, tmp_path):
  path = tmp_path / "good" / f"rows{suffix}"
  write_lines(path, row | {"id": "a"}, row | {"id": "b"})
  if suffix == ".json":
    path.write_text(json.dumps([row]))

  def read(folder):
    for question in load_questions(f"{name}:{folder / path.name}"):
      assert question.id
      json.dumps(dict(question.extra), allow_nan=False)

  attack(tmp_path / "good", read, tmp_path, cases=40 if suffix == ".jsonl" else 12, name=name)


def pruned_records():
  """Two pruned chains, the second by units."""
  one = pruned_chain(["3", " + 4", " =", " 7"], [1, 0, 2], "a", answer='{"answer": "7"}')
  one = dataclasses.replace(one, pruned={"0.5": " = 7"})
  other = pruned_chain(
    ["So", " it", " is", "\n7"], [2, 3], "b", unit_sizes=(2, 2), answer='{"answer": "7"}'
  )
  other = dataclasses.replace(
    other,
    nll={"joint": (1.0, 0.5), "answer": (0.2, 0.1), "reasoning": (1.0, None)},
    pruned={"0.5": "So it"},
  )
  return one.to_record(), other.to_record()


def test_pruned_records(tmp_path):
  (tmp_path / "good").mkdir()
  (tmp_path / "good" / "config.json").write_text("{}")
  write_lines(tmp_path / "good" / "pruned" / "process-00000.jsonl", *pruned_records())

  def read(folder):
    chains = list(read_pruned(folder))
    format_mean_nlls(chains)
    for chain in chains:
      format_pruned(chain)
      chain.spell(chain.kept_positions(len(chain.reasoning_ids) - 1))
      assert PrunedChain.from_record(chain.to_record()) == chain
    list(read_kept(str(folder), 0.5, on_bad=lambda bad: None))

  assert attack(tmp_path / "good", read, tmp_path, cases=200, name="pruned") > 60


def test_workdirs(tmp_path):
  config = {"a": 1, "group": {"b": [0.5]}}
  with Workdir(tmp_path / "good", config, output="out") as workdir:
    workdir.write_finished({"id": "x", "text": "t"})
    workdir.write_unfinished("y", 1, {"deleted": [1], "nll": {"joint": [0.5, 0.25]}})
    workdir.write_skipped({"place": "", "id": "z", "reason": "r"})
    workdir.write_metrics({"loss": 0.5})
    workdir.keep_unfinished()

  def reopen(folder):
    with Workdir(folder, config, output="out") as workdir:
      workdir.load_unfinished()
      list(workdir.output("out").records())
      workdir.write_skipped({"place": "", "id": "w", "reason": "r"})
    list(read_output(folder, "out"))

  assert attack(tmp_path / "good", reopen, tmp_path, cases=150, name="workdir") > 40


SAMPLE = {
  "text": "so 4", "reasoning": "so ", "answer": "4", "value": "4", "correct": True,
  "finish_reason": "stop", "num_tokens": 3, "thinking": None, "num_thinking_tokens": None,
}  # fmt: skip


def test_records_of_samples(tmp_path):
  record = {
    "id": "a", "question": "2 + 2?", "system": "Add.", "target": "4", "extra": {"level": 1},
    "teacher": "m",
    "samples": [SAMPLE, SAMPLE | {"correct": False, "value": None, "finish_reason": "length"}],
  }  # fmt: skip
  write_lines(tmp_path / "good" / "samples" / "process-00000.jsonl", record, record | {"id": "b"})

  def read(folder):
    records = read_samples(folder)
    for found in records:
      format_samples(found, most=2)
    if records:
      format_summary(summarise(records))

  assert attack(tmp_path / "good", read, tmp_path, cases=150, name="samples") > 40


def test_records_of_evaluations(tmp_path):
  records = [
    {
      "id": f"{model}/q{i}", "run": model, "model": model, "place": f"/m/{model}", "step": None,
      "keep_ratio": None, "question_id": f"q{i}", "question": f"{i}?", "target": "4",
      "samples": [SAMPLE | {"reasoning_tokens": 2 + i}], "weights": None,
    }
    for model in ("one", "two")
    for i in range(2)
  ]  # fmt: skip
  write_lines(tmp_path / "good" / "answers" / "process-00000.jsonl", *records)

  def read(folder):
    runs = by_run(read_evaluation(folder))
    if runs:
      accuracy_table(runs)
      pairs_table(runs)
    for of_run in runs.values():
      format_samples(of_run[0], most=2)

  assert attack(tmp_path / "good", read, tmp_path, cases=150, name="answers") > 40


def test_records_of_pruned_evaluations(tmp_path):
  answer = {"text": "4", "value": "4", "correct": True, "finish_reason": "stop"}
  record = {
    "id": "r/a", "run": "r", "ranking": "greedy", "objective": "joint", "chain": "a",
    "target": "4", "answers": {"1.0": answer, "0.5": answer | {"value": None, "correct": False}},
  }  # fmt: skip
  path = tmp_path / "good" / "answers" / "process-00000.jsonl"
  write_lines(path, record, record | {"id": "r/b", "chain": "b"})

  def read(folder):
    pruned_accuracy_table(read_pruned_answers(folder))

  assert attack(tmp_path / "good", read, tmp_path, cases=100, name="pruned answers") > 20


def drp_records():
  """A record of each stage, on one chain."""
  chain = forms.chain(1)
  made = {"teacher": "m", "prompt": "1"}
  steps = [{"text": text, "skill": skill} for text, skill in forms.STEPS]
  edits = [
    {"steps": [i - 1 for i in numbers], "action": action, "text": text}
    for numbers, action, text in forms.EDITS
  ]
  base = {"id": chain["id"], "chain": chain, "steps": steps, "failed": None, "num_tokens": 9}
  base |= {"refused": [{"reason": "not_json", "complaint": "c"}], "made_by": {"decompose": made}}
  edited = base | {"edits": edits, "made_by": base["made_by"] | {"edit": made}}
  written = edited | {"text": forms.WRITTEN, "invented": []}
  written |= {"made_by": edited["made_by"] | {"write": made}}
  return {"decomposed": base, "edited": edited, "written": written}


def test_records_of_drp(tmp_path):
  for output, record in drp_records().items():
    write_lines(tmp_path / "good" / output / "process-00000.jsonl", record)

  def read(folder):
    records = drp_summary.read_all(folder)
    drp_summary.format_tables(drp_summary.make_tables(records, "keep"))
    for of_stage in records.values():
      for record in of_stage:
        drp_summary.format_edited(record)

  assert attack(tmp_path / "good", read, tmp_path, cases=200, name="drp") > 60


@pytest.mark.parametrize("stage", [DECOMPOSE, EDIT, WRITE], ids=lambda stage: stage.name)
def test_replies_of_drp(stage):
  from greedy_prune_jax.chains.chain import Chain

  item = Item.of(Chain.from_record(forms.chain(1)))
  for output, before in (("decomposed", EDIT), ("edited", WRITE)):
    if stage is before:
      item = item.with_results(drp_records()[output])
  good = forms.GOOD[stage.name]

  def read(text):
    complaint = ""
    try:
      read_reply(stage, item, Reply(id="a", text=text, finish_reason="stop"))
    except RefusedReplyError as error:
      complaint = error.complaint
    assert len(complaint) < 5000

  read(good)
  for case in range(250):
    rng = random.Random(f"{stage.name} {case}")
    text = json.dumps(mutated(json.loads(good), rng), ensure_ascii=False)
    if rng.random() < 0.5:
      text = mutated_text(text, rng)
    if rng.random() < 0.1:
      text = rng.choice((good[:20] * 900, "<think>" + good, "{" * 20000, good * 50))
    assert is_taken(lambda text=text: read(text)), text


def test_replies_of_the_annotator():
  good = json.dumps({"labels": [{"position": i, "category": "FUNCTION"} for i in range(3)]})
  assert is_taken(lambda: parse_reply(good, 0, 3))
  for case in range(300):
    rng = random.Random(case)
    text = json.dumps(mutated(json.loads(good), rng))
    is_taken(lambda text=text, rng=rng: parse_reply(mutated_text(text, rng), 0, 3))


@pytest.mark.parametrize("form", [answers.NUMBER, answers.BOXED, answers.LETTER])
def test_replies_with_answers(form):
  good = "So 6 * 7 = 42.\n" + form.write("B" if form is answers.LETTER else "42")
  pieces = [
    r"\boxed{",
    "####",
    "final ",
    "answer: ",
    "$",
    "{",
    '{"answer":',
    "1/0",
    "1e999",
    "9" * 99,
  ]
  pieces += ["\\frac{", "^" * 99, "(" * 999, "sqrt" * 30, "NaN", "10^10^10", "x=" * 50, "\u0663"]
  for case in range(200):
    rng = random.Random(case)
    text = mutated_text(good, rng) + rng.choice(pieces) * rng.choice((1, 3, 2000))
    text += mutated_text(form.write(rng.choice(pieces)), rng)

    def read(text=text):
      split = answers.split_response(text, form)
      if split is not None:
        form.is_right(split.value, "B" if form is answers.LETTER else "42")
        form.is_right("42", split.value)
        form.is_target(split.value)

    assert is_taken(read), text[:200]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  make_model(folder)
  return folder


def load_all(folder):
  load_config(str(folder))
  tokenizer = load_tokenizer(str(folder))
  load_stop_ids(str(folder))
  template = load_chat_template("tokenizer", tokenizer)
  tokenizer(template.prompt("How many?", "Be brief."), add_special_tokens=False)
  assert template.stop_ids is not None


def test_folders_of_models(model_folder, tmp_path):
  """All files but the weights, which `test_mutations` changes."""
  pattern = "[!m]*"
  refused = attack(model_folder, load_all, tmp_path, cases=150, name="model", pattern=pattern)
  assert refused > 30


def test_tokenizers_of_gguf_files(tmp_path):
  (tmp_path / "good").mkdir()
  metadata = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *map(chr, range(33, 127)), "ab"],
    "tokenizer.ggml.token_type": [2, 3, 3, *[1] * 95],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": TEMPLATE,
  }
  write_gguf(
    tmp_path / "good" / "m.gguf",
    reference_model(tiny_config("llama", vocab_size=98)),
    metadata=metadata,
  )
  attack(
    tmp_path / "good", lambda folder: load_all(folder / "m.gguf"), tmp_path, cases=100, name="gguf"
  )


def test_values_of_gguf_tokenizers(tmp_path):
  """Keys of a kind that a GGUF file can hold, and that no tokenizer's should be."""
  model = reference_model(tiny_config("llama", vocab_size=6))
  good = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": TEMPLATE,
  }
  values = (None, 1, -1.0, True, "x", "{% for %}", ["a"], [1, 2], [1.5], "x" * 9000, "{{ 1 / 0 }}")
  for case in range(120):
    rng = random.Random(case)
    key = rng.choice(list(good))
    value = rng.choice(values)
    write_gguf(tmp_path / "m.gguf", model, metadata=good | {key: value})
    try:
      is_taken(lambda: load_all(tmp_path / "m.gguf"))
    except Exception as error:
      raise AssertionError(f"{case}: {key}={value!r}"[:200]) from error


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
  """A model in several files, with an adapter beside it."""
  from safetensors.numpy import save_file

  folder = tmp_path_factory.mktemp("sharded")
  model = reference_model(tiny_config("llama"))
  model.save_pretrained(folder / "base", max_shard_size="10KB")
  adapter = folder / "adapter"
  adapter.mkdir()
  config = {"base_model_name_or_path": "BASE", "peft_type": "LORA", "r": 2, "lora_alpha": 4.0}
  (adapter / "adapter_config.json").write_text(json.dumps(config))
  name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
  matrices = {
    name.format("A"): np.ones((2, 32), np.float32),
    name.format("B"): np.ones((32, 2), np.float32),
  }
  save_file(matrices, adapter / "adapter_model.safetensors")
  return folder


def test_indices_of_shards(sharded, tmp_path):
  attack(
    sharded / "base", lambda f: load_model(str(f), "float32"), tmp_path, cases=60, name="index",
    pattern="*.json",
  )  # fmt: skip


def test_adapters(sharded, tmp_path):
  def load(folder):
    path = folder / "adapter_config.json"
    if path.is_file() and (content := path.read_bytes()):
      path.write_bytes(content.replace(b'"BASE"', json.dumps(str(sharded / "base")).encode()))
    load_model(str(folder), "float32")

  attack(sharded / "adapter", load, tmp_path, cases=80, name="adapter")


HOSTILE_TEMPLATES = (
  "{% for i in range(10**12) %}x{% endfor %}",
  "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
  "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
  "{{ 'x' * 10**10 }}",
  "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
  "{{ ns.s | length }}",
  "{% set ns = namespace(s='x' * 100) %}{% for i in range(60) %}"
  "{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}",
  "{{ '%999999999999d' % 1 }}",
  "{{ '{:>9999999999}'.format(1) }}",
  "{{ 'x'.ljust(10**11) }}",
  "{{ 'x' | center(10**11) }}",
  "{{ 'x' | indent(10**11) }}",
  "{{ 9 ** 9 ** 9 }}",
  "{{ 10 ** 10 ** 8 }}",
  "{{ (1 << 10**12) }}",
  "{{ [0] * 10**11 }}",
  "{{ range(10**15) | list }}",
  "{{ range(10**15) | sum }}",
  "{{ ['a'] * 99999999 | join }}",
  "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
  "{% include 'x' %}",
  "{% import '/etc/passwd' as x %}",
  "{{ ''.__class__.__mro__ }}",
  "{{ raise_exception('no') }}",
  "{{ raise_exception() }}",
  "{{ strftime_now() }}",
  "{{ strftime_now(7) }}",
  "{{ messages[99].content.x }}",
  "{{ 1 / 0 }}",
  "{% break %}",
  "{{ lipsum(n=99999) }}",
  "{{ cycler() }}",
  "{{ messages | tojson(indent=10**9) }}",
  "{" * 5000,
  "(" * 5000,
  "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
  "{{ " + "-" * 5000 + "1 }}",
  "{% if 1 %}" * 300,
  "\x00{{ '\x00' }}",
  "{{ messages[0].content.encode('utf-8').decode('utf-16') }}",
  "{{ '\\ud800' }}",
  TEMPLATE + "{{ '\\ud800' }}",
  "",
)


# Templates that say all of a conversation, or some of it, in an odd form.
ODD_TEMPLATES = ("{{ messages | map('upper') | list }}", "{{ messages | pprint }}", TEMPLATE * 99)


@pytest.mark.parametrize("template", HOSTILE_TEMPLATES, ids=range(len(HOSTILE_TEMPLATES)))
def test_hostile_templates(template):
  assert not is_taken(lambda: ChatTemplate(byte_level(), template))
  # What is said only where there is a question such as this one, is refused when it is asked.
  late = "{% if 'LATE' in messages[0].content %}" + template + "{% endif %}" + TEMPLATE
  with contextlib.suppress(UserError):  # some cannot be compiled
    made = ChatTemplate(byte_level(), late)
    is_taken(lambda: made.prompt("LATE"))


@pytest.mark.parametrize("template", ODD_TEMPLATES, ids=range(len(ODD_TEMPLATES)))
def test_odd_templates(template):
  is_taken(lambda: ChatTemplate(byte_level(), template))


def test_mutated_templates():
  names = ("QWEN3", "QWEN3_5", "R1", "HARMONY", "NEMOTRON", "OLMO_THINK", "SMOLLM3", "CHATML")
  good = [getattr(thinking_templates, name) for name in names]
  tokenizer = byte_level()
  for template in good:
    assert not refusal(lambda template=template: ChatTemplate(tokenizer, template))
  refused = 0
  for case in range(250):
    rng = random.Random(case)
    template = mutated_text(rng.choice(good), rng)

    def use(template=template):
      made = ChatTemplate(tokenizer, template)
      made.prompt("2?", "Add.")
      assert made.stop_ids is not None

    refused += not is_taken(use)
  assert 30 < refused < 250


@pytest.fixture(scope="module")
def settings_classes():
  from configs import (
    analyze,
    distill,
    drp,
    evaluate,
    evaluate_pruned,
    prune,
    publish,
    sample,
    study_cpu,
    study_drp,
  )

  return [
    (AnalyzeSettings, analyze.get_config()),
    (DistillSettings, distill.get_config()),
    (DrpSettings, drp.get_config()),
    (EvaluateSettings, evaluate.get_config()),
    (EvaluatePrunedSettings, evaluate_pruned.get_config()),
    (PruneSettings, prune.get_config()),
    (PublishSettings, publish.get_config()),
    (SampleSettings, sample.get_config()),
    (StudySettings, study_cpu.get_config()),
    (StudySettings, study_drp.get_config()),
  ]


NO_JSON = (
  float("nan"),
  float("inf"),
  -float("inf"),
  (),
  (1,),
  ("a", 1),
  ((),),
  (float("nan"),),
  b"x",
)


def with_another(config, rng):
  """The config with a value of any kind at one of its keys."""
  key = rng.choice(list(config))
  value = config[key]
  if isinstance(value, dict) and value and rng.random() < 0.8:
    return config | {key: with_another(value, rng)}
  if isinstance(value, tuple) and value and rng.random() < 0.5:
    return config | {key: (*value[1:], mutated(value[0], rng))}
  return config | {key: rng.choice((mutated(value, rng), rng.choice(NO_JSON)))}


@pytest.mark.parametrize("number", range(10))
def test_settings(number, settings_classes):
  cls, config = settings_classes[number]
  config = config.to_dict()
  assert is_taken(lambda: cls.from_config(config))
  refused = 0
  for case in range(200):
    changed = with_another(config, random.Random(f"{number} {case}"))
    try:
      refused += not is_taken(lambda changed=changed: cls.from_config(changed))
    except Exception as error:
      differs = {k: v for k, v in changed.items() if v != config[k]}
      raise AssertionError(f"{cls.__name__} {case}: {differs!r}"[:400]) from error
  assert refused > 60


def test_budgets_and_entries_of_models():
  for case in range(300):
    rng = random.Random(case)
    is_taken(lambda rng=rng: parse_budgets(mutated_text("nll:+0.1,answer:0.9,right", rng)))
    is_taken(lambda rng=rng: parse_entries((mutated_text("a=b/c@last", rng), "d")))


def test_label_files(tmp_path):
  lines = json.loads(json.dumps(pruned_records()))
  one, other = map(PrunedChain.from_record, lines)
  labels = (Category.FUNCTION, None, Category.SYMBOLIC_MATH, Category.ENTITY_NAME)
  path = tmp_path / "good" / "labels.jsonl"
  write_lines(path, labels_to_record(one, labels), labels_to_record(other, labels))
  attack(
    tmp_path / "good", lambda f: read_labels(f / path.name), tmp_path, cases=100, name="labels"
  )


def test_stores_of_features(tmp_path):
  chains = random_segments(3)
  arguments = (tiny_model(), [f"c/{i}" for i in range(3)], chains)
  build_store(tmp_path / "good", *arguments, pruner="tiny")

  def read(folder):
    store = open_store(folder)
    assert np.asarray(store.attention[store.rows(2)]).shape[0] == len(chains[2].reasoning)
    build_store(folder, *arguments, pruner="tiny")

  attack(tmp_path / "good", read, tmp_path, cases=60, name="features")


def test_attention_regressions(tmp_path):
  from greedy_prune_jax.analysis.rank_regression import fit_ranking
  from tests.analysis.test_rank_regression import planted_order, rank_data

  chains = random_segments(8)
  store = build_store(
    tmp_path / "store", tiny_model(), [f"c/{i}" for i in range(8)], chains, pruner="tiny"
  )
  data, counts = rank_data((tiny_model(), chains, store), planted_order)
  ranking = fit_ranking(data, counts, pruner="tiny", annotator="rules")
  save_ranking(tmp_path / "good" / "ranking", ranking)

  def read(folder):
    found = load_ranking(folder / "ranking")
    assert isinstance(found.counts, TokenCounts)

  attack(tmp_path / "good", read, tmp_path, cases=120, name="ranking")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A workdir with two checkpoints of a tiny student, and a state of its shapes."""
  import jax.numpy as jnp
  import optax

  folder = tmp_path_factory.mktemp("trained") / "run"
  state = init_state({"a": jnp.ones((3, 2)), "b": jnp.zeros(4)}, optax.adam(0.1), None)
  with Checkpoints(folder, num_last=3) as checkpoints:
    for step in (1, 2):
      progress = TrainProgress(data={"next_index": step}, best_step=1, best_loss=0.5)
      checkpoints.save(state._replace(step=jnp.asarray(step, jnp.int32)), progress)
  config = dataclasses.asdict(distill_settings())
  (folder / "config.json").write_text(json.dumps(config))
  with MetricsLog(folder, 0) as log:
    log.write(1, {"loss": 0.5})
    log.write(2, {"loss": None})
  shutil.rmtree(folder / "tensorboard")
  return folder, state


def test_workdirs_of_trainings(trained, tmp_path):
  pristine, state = trained

  def read(folder):
    settings_of(folder)
    weights_digest(folder / "checkpoints" / "2")
    with Checkpoints(folder, read_only=True, alone=True) as checkpoints:
      assert checkpoints.progress(checkpoints.steps[-1]).best_step == 1
      checkpoints.restore_trained(checkpoints.steps[-1], state.trained)
    with Checkpoints(folder, num_last=3) as checkpoints:
      step, restored, progress = checkpoints.restore_last(state)
      assert step in (1, 2)
      assert progress is not None
      assert progress.best_step == 1
      np.testing.assert_array_equal(restored.trained["a"], state.trained["a"])
    with MetricsLog(folder, step):
      pass

  attack(pristine, read, tmp_path, cases=150, name="checkpoints")
