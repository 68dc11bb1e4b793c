"""The `sample` run with a teacher that says what it is told to: what is stored and kept."""

import contextlib
import itertools
import json

import pytest

from configs.prune import get_config as prune_config
from greedy_prune_jax.chains.reading import read_chains, read_pruned
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.pruning.run import run_prune
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.runs.records import CHECK, checksum
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.sample import run as rejection
from greedy_prune_jax.sample.run import run_sample
from greedy_prune_jax.sample.settings import SampleSettings
from greedy_prune_jax.sample.summary import read_samples, summarise
from greedy_prune_jax.teachers.settings import EndpointSettings
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers.tiny_runs import make_model

# GSM8K rows: question i has the answer i.
ROWS = [{"question": f"What is {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(4)]
RIGHT, WRONG = 'It is what it is.\n{{"answer": "{0}"}}', 'Hm.\n{{"answer": "{0}99"}}'
# What is said to each question, a sample each.
SCRIPT = {
  0: [WRONG, RIGHT, RIGHT],
  1: ["I do not know.", WRONG, WRONG],
  2: ['{{"answer": "{0}"}}', "So long: " + RIGHT, RIGHT],  # no reasoning; cut off; good
  3: [RIGHT, RIGHT, RIGHT],
}


class BrokenDownError(Exception):
  pass


class ScriptedTeacher:
  """Answers by SCRIPT, last prompts first; breaks down after some replies, refuses some prompts."""

  def __init__(self, most=None, refuse=(), served=None):
    self.most, self.refuse, self.served, self.asked = most, refuse, served, []

  def write(self, prompts):
    for prompt in reversed(prompts):
      if len(self.asked) == self.most:
        raise BrokenDownError
      self.asked.append(prompt)
      if prompt.id in self.refuse:
        yield Reply.failed(prompt, "it is busy")
        continue
      question = int(prompt.question.removeprefix("What is ").removesuffix("?"))
      text = SCRIPT[question][int(prompt.id.rpartition("#")[2])].format(question)
      reason = "length" if text.startswith("So long") else "stop"
      known = {"num_tokens": len(text), "served": self.served}
      yield Reply(id=prompt.id, text=text, finish_reason=reason, **known)


@pytest.fixture
def config(tmp_path):
  rows = tmp_path / "rows.jsonl"
  rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  return {
    "questions": f"gsm8k:{rows}",
    "split": "train",
    "num_questions": 0,
    "num_shots": 0,
    "instruction": "",
    "seed": 0,
    "teacher": "scripted",
    "chat_template": "tokenizer",
    "dtype": "float32",
    "endpoint": EndpointSettings.defaults(),
    "num_samples": 3,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "max_new_tokens": 100,
    "thinking": "auto",
    "max_thinking_tokens": 100,
    "force_answer": False,
    "stop_strings": (),
    "batch_size": 0,
    "mesh": {"data": 1, "model": 1},
    "show_samples": 0,
    "compilation_cache": True,
  }


@pytest.fixture
def sample(config, tmp_path, monkeypatch):
  def sample(teacher, name="run"):
    monkeypatch.setattr(rejection, "load_job_teacher", lambda *_: teacher)
    with Workdir(tmp_path / name, config, output=rejection.OUTPUT) as workdir:
      return run_sample(SampleSettings.from_config(config), workdir)

  return sample


def test_questions_that_the_set_no_longer_has_are_named(sample, config, tmp_path, caplog):
  sample(ScriptedTeacher())
  rows = "".join(json.dumps(row) + "\n" for row in ROWS[:2])
  (tmp_path / "rows.jsonl").write_text(rows)
  sample(ScriptedTeacher())
  assert "the input no longer has 2 of the finished items: rows/2, rows/3. They" in caplog.text


def test_every_sample_is_stored_and_the_first_good_one_kept(sample, tmp_path):
  assert sample(ScriptedTeacher()) == 0

  records = {record["target"]: record for record in read_samples(tmp_path / "run")}
  assert sorted(records) == ["0", "1", "2", "3"]
  verdicts = {
    target: [sample["correct"] for sample in record["samples"]]
    for target, record in records.items()
  }
  assert verdicts == {
    "0": [False, True, True],
    "1": [False, False, False],
    "2": [True, True, True],
    "3": [True, True, True],
  }
  assert [sample["value"] for sample in records["1"]["samples"]] == [None, "199", "199"]

  kept = {chain.target: chain for chain in read_chains(str(tmp_path / "run"))}
  assert {target: chain.extra["sample"] for target, chain in kept.items()} == {
    "0": 1,
    "2": 2,
    "3": 0,
  }
  chain = kept["0"]
  assert (chain.question, chain.reasoning, chain.answer) == (
    "What is 0?",
    "It is what it is.\n",
    '{"answer": "0"}',
  )
  assert chain.extra["teacher"] == "scripted"
  assert chain.id == records["0"]["id"]


@pytest.mark.slow
def test_its_workdir_is_what_prune_takes(sample, tmp_path):
  sample(ScriptedTeacher())
  make_model(tmp_path / "pruner", max_position_embeddings=512)
  config = prune_config().to_dict() | {
    "chains": str(tmp_path / "run"),
    "pruner": str(tmp_path / "pruner"),
    "num_chains": 0,
    "ranking": "keep_first",
  }
  with Workdir(tmp_path / "pruned", config, output="pruned") as workdir:
    assert run_prune(PruneSettings.from_config(config), workdir) == []
  pruned = list(read_pruned(tmp_path / "pruned"))
  assert [one.chain for one in pruned] == list(read_chains(str(tmp_path / "run")))
  assert len(pruned) == 3


def test_a_broken_off_run_goes_on_and_asks_nothing_twice(sample, tmp_path):
  whole = ScriptedTeacher()
  sample(whole, "whole")
  teachers = []
  for most in itertools.repeat(5):
    teachers.append(ScriptedTeacher(most=most))
    try:
      sample(teachers[-1])
      break
    except BrokenDownError:
      pass
  assert len(teachers) == 3
  asked = [prompt for teacher in teachers for prompt in teacher.asked]
  assert len(asked) == len(set(asked)) == 12
  assert set(asked) == set(whole.asked)  # with equal seeds

  def files(name):
    return {
      folder: sorted(
        line
        for path in (tmp_path / name / folder).iterdir()
        for line in path.read_text().splitlines()
      )
      for folder in ("samples", "chains")
    }

  assert files("run") == files("whole")

  sample(None)  # nothing is asked, so nobody is needed


@pytest.mark.parametrize("most", [4, 12])  # replies to a question and a part, and to all
@pytest.mark.parametrize(
  ("change", "differs"),
  [
    ("question", r"another question \('What is \d\?' then, 'What is \d\? Say\.' now\) than"),
    ("answer", r"another gold answer \('\d' then, '9' now\) than"),
    ("order", r"another question \(.*\) and another gold answer \(.*\) than"),
  ],
)
def test_a_run_does_not_go_on_with_other_questions(sample, tmp_path, most, change, differs):
  with contextlib.suppress(BrokenDownError):
    sample(ScriptedTeacher(most=most))
  others = {
    "question": [row | {"question": f"{row['question']} Say."} for row in ROWS],
    "answer": [row | {"answer": "It is 9.\n#### 9"} for row in ROWS],
    "order": ROWS[::-1],
  }
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others[change]))
  with pytest.raises(UserError, match=rf"rows/\d has {differs} when this workdir was begun"):
    sample(ScriptedTeacher())


def test_a_run_does_not_go_on_with_another_prompt_around_a_question(sample, tmp_path):
  """As of a version with another system text for the set."""
  with pytest.raises(BrokenDownError):
    sample(ScriptedTeacher(most=4))
  for folder, key, differs in (
    ("samples", "asked", "the question and gold answer of then, but another prompt than when this"),
    ("unfinished", "state", "another prompt than when this workdir was begun"),
  ):
    [path] = (tmp_path / "run" / folder).glob("*.jsonl")
    before = path.read_text()
    records = [json.loads(line) for line in before.splitlines()]
    for record in records:
      record[key] = "0" if folder == "samples" else record["state"] | {"prompt": "0"}
      if record.pop(CHECK, None):
        record[CHECK] = checksum(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(UserError, match=rf"rows/.* has {differs}"):
      sample(ScriptedTeacher())
    path.write_text(before)


def test_samples_of_versions_that_stored_no_prompts_are_gone_on_with(sample, tmp_path):
  with pytest.raises(BrokenDownError):
    sample(ScriptedTeacher(most=4))
  [path] = (tmp_path / "run" / "samples").glob("*.jsonl")
  line = json.loads(path.read_text())
  del line["asked"]
  path.write_text(json.dumps(line) + "\n")
  assert sample(ScriptedTeacher()) == 0
  assert len(read_samples(tmp_path / "run")) == 4


@pytest.mark.parametrize("most", [1, 3])  # replies: parts of a question, or whole ones
def test_another_model_at_the_endpoint_is_warned_of(sample, tmp_path, caplog, most):
  with pytest.raises(BrokenDownError):
    sample(ScriptedTeacher(most=most, served="m"))
  with pytest.raises(BrokenDownError):
    sample(ScriptedTeacher(most=most, served="m-2026-05-01"))
  assert "served" not in caplog.text
  assert sample(ScriptedTeacher(served="other")) == 0
  assert caplog.text.count("says that other wrote the reply to ") == 1
  assert "but m, m-2026-05-01 wrote earlier ones in this workdir" in caplog.text
  samples = [s["served"] for record in read_samples(tmp_path / "run") for s in record["samples"]]
  assert samples.count("other") == 12 - 2 * most


def test_chains_that_a_killed_run_had_not_written_are_written_by_the_next(sample, tmp_path):
  sample(ScriptedTeacher())
  path = tmp_path / "run" / "chains" / "process-00000.jsonl"
  whole = path.read_text()
  path.write_text(whole[: len(whole) // 2])
  sample(None)
  assert path.read_text() == whole


def test_samples_without_a_reply_are_told_and_asked_for_again(sample, tmp_path):
  refused = {"rows/0#1", "rows/3#2"}
  assert sample(ScriptedTeacher(refuse=refused)) == 2
  skipped = [json.loads(x) for x in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
  assert {line["id"] for line in skipped} == refused
  assert all(line["reason"] == "it is busy" for line in skipped)
  assert len(read_samples(tmp_path / "run")) == 2
  again = ScriptedTeacher()
  assert sample(again) == 0
  assert {prompt.id for prompt in again.asked} == refused
  assert not (tmp_path / "run" / "skipped.jsonl").exists()


def test_seeds_depend_on_the_sample_alone(sample, config):
  teachers = ScriptedTeacher(), ScriptedTeacher()
  sample(teachers[0], "four")
  config["num_questions"] = 2
  sample(teachers[1], "two")
  four, two = ({prompt.id: prompt.seed for prompt in teacher.asked} for teacher in teachers)
  assert len(set(four.values())) == 12
  assert two.items() <= four.items()


def test_worked_solutions_are_shown_first_and_their_questions_not_asked(sample, config, tmp_path):
  config["num_shots"] = 2
  teacher = ScriptedTeacher()
  sample(teacher)
  asked = {prompt.question for prompt in teacher.asked}
  assert len(asked) == 2
  (system,) = {prompt.system for prompt in teacher.asked}
  shown = [i for i in range(4) if f"What is {i}?" in system]
  assert {f"What is {i}?" for i in shown} | asked == {row["question"] for row in ROWS}
  for i in shown:
    solution = f'\n\nQuestion: What is {i}?\nAnswer:\nIt is {i}.\n{{"answer": "{i}"}}'
    assert solution in system
  # What was shown is no part of the chain.
  chains = list(read_chains(str(tmp_path / "run")))
  assert chains
  assert not any("What is" in chain.system for chain in chains)

  config["num_shots"] = 4
  with pytest.raises(UserError, match=r"num_shots=4, and .* has 4 questions; none is left to ask"):
    sample(teacher, "none")


def test_a_further_instruction_is_asked_for_and_not_part_of_the_chain(sample, config, tmp_path):
  teacher, config["instruction"] = ScriptedTeacher(), "Use less than 50 tokens."
  sample(teacher)
  chains = list(read_chains(str(tmp_path / "run")))
  (asked,) = {prompt.system for prompt in teacher.asked}
  assert {chain.system + "\n\nUse less than 50 tokens." for chain in chains} == {asked}


def test_summary(sample, tmp_path):
  sample(ScriptedTeacher())
  summary = summarise(read_samples(tmp_path / "run"))
  assert (summary.questions, summary.samples, summary.chains) == (4, 12, 3)
  assert summary.accuracy == pytest.approx(8 / 12)
  # Accuracies 2/3, 0, 1, 1 of the questions: their standard deviation over the root of 4.
  assert summary.accuracy_stderr == pytest.approx(0.47140452 / 2)
  assert summary.pass_at == pytest.approx({"1": 8 / 12, "2": 3 / 4, "3": 3 / 4})
  assert summary.unparsed == pytest.approx(1 / 12)
  assert summary.cut_off == pytest.approx(1 / 12)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"temperature": 0.0}, "num_samples=3 at temperature=0 would be that many equal samples"),
    ({"temperature": -1}, r"temperature=-1\.0; expected 0 or more"),
    ({"top_p": 1.5}, r"top_p=1\.5; expected a number above 0, up to 1"),
    ({"top_p": 0.0}, r"top_p=0\.0; expected a number above 0, up to 1"),
    ({"top_k": -1}, "top_k=-1; expected 0 or more"),
    ({"max_new_tokens": 0}, "max_new_tokens=0; expected 1 or more"),
    ({"num_samples": 0}, "num_samples=0; expected 1 or more"),
    ({"split": "dev"}, "split='dev'; expected one of train, test"),
    ({"stop_strings": ("",)}, "expected a tuple of strings, none empty"),
    ({"top_k": "5"}, "top_k='5'; expected a whole number"),
    ({"topp": 1.0}, "unknown keys: topp; see configs/sample.py"),
  ],
)
def test_settings_that_cannot_be_are_refused(config, change, message):
  with pytest.raises(UserError, match=message):
    SampleSettings.from_config(config | change)
