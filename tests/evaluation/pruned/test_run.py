"""Answers from pruned reasoning: who is asked what, how replies are judged, and what is counted."""

import dataclasses
import json
import shutil

import pytest
import torch
import transformers

from greedy_prune_jax.chains.answers import BOXED, LETTER, NUMBER
from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.expected import expected_answer
from greedy_prune_jax.chains.pruned_answers import OUTPUT, read_pruned_answers
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation.pruned import run as pruned_chains
from greedy_prune_jax.evaluation.pruned.run import (
  count_cut_off,
  pruned_accuracy_table,
  pruned_pairs_table,
  run_evaluate_pruned,
)
from greedy_prune_jax.evaluation.pruned.settings import EvaluatePrunedSettings
from greedy_prune_jax.jobs.evaluate_pruned import evaluate_pruned
from greedy_prune_jax.runs.workdir import Workdir
from greedy_prune_jax.teachers.teacher import Reply
from tests.helpers.jsonl_files import new_writer
from tests.helpers.planted import pruned_chain
from tests.helpers.tiny_runs import make_model

# Of chain i: the whole reasoning, and what is left at a half.
TOKENS = ["Two", " and", " two", " is", " four", ".\n"]


def chain(i, **changes):
  pruned = pruned_chain(TOKENS, [1, 3, 0], f"c/{i}", question=f"Sum {i}?", answer='{"answer": "4"}')
  whole = dataclasses.replace(pruned.chain, target="4", **changes)
  return dataclasses.replace(pruned, chain=whole, pruned={"0.5": " two four.\n"})


def write_run(folder, chains):
  with new_writer(folder / "pruned" / "process-00000.jsonl") as writer:
    for pruned in chains:
      writer.write(pruned.to_record())
  (folder / "config.json").write_text("{}")


def config_of(*pruned, **changes):
  return {
    "pruned": pruned,
    "num_chains": 0,
    "model": "scripted",
    "chat_template": "tokenizer",
    "dtype": "float32",
    "begin_answer": True,
    "max_new_tokens": 8,
    "batch_size": 0,
    "mesh": {"data": 1, "model": 1},
    "compilation_cache": False,
  } | changes


class ScriptedTeacher:
  """Says `reply_of(prompt)`, or that it cannot where that is None."""

  def __init__(self, reply_of):
    self.reply_of, self.asked = reply_of, []

  def write(self, prompts):
    for prompt in prompts:
      self.asked.append(prompt)
      text = self.reply_of(prompt)
      if text is None:
        yield Reply.failed(prompt, "it is too long")
      else:
        yield Reply(id=prompt.id, text=text, finish_reason="stop", num_tokens=1)


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
  """Runs with a scripted teacher; returns the failures and the records by id."""

  def evaluate(teacher, config, name="out"):
    monkeypatch.setattr(pruned_chains.LocalTeacher, "load", lambda *_, **__: teacher)
    with Workdir(tmp_path / name, config, output=OUTPUT) as workdir:
      failed = run_evaluate_pruned(EvaluatePrunedSettings.from_config(config), workdir)
    return failed, {record["id"]: record for record in read_pruned_answers(tmp_path / name)}

  return evaluate


@pytest.mark.parametrize(
  ("change", "differs"),
  [
    ("text", "the question and gold answer of then, but another prompt"),
    ("target", r"another gold answer \('4' then, '5' now\)"),
  ],
)
def test_a_run_does_not_go_on_with_other_texts(evaluate, tmp_path, change, differs):
  write_run(tmp_path / "joint", [chain(0)])
  config = config_of(str(tmp_path / "joint"))
  teacher = ScriptedTeacher(lambda _: '4"}')
  before = evaluate(teacher, config)
  assert evaluate(None, config) == before
  others = {
    "text": dataclasses.replace(chain(0), pruned={"0.5": " two is four.\n"}),
    "target": dataclasses.replace(chain(0), chain=dataclasses.replace(chain(0).chain, target="5")),
  }
  shutil.rmtree(tmp_path / "joint")
  write_run(tmp_path / "joint", [others[change]])
  with pytest.raises(UserError, match=f"joint/c/0 has {differs} than when this"):
    evaluate(teacher, config)


def test_chains_that_a_run_no_longer_has_are_named(evaluate, tmp_path, caplog):
  write_run(tmp_path / "joint", [chain(0), chain(1)])
  config = config_of(str(tmp_path / "joint"))
  before = evaluate(ScriptedTeacher(lambda _: '4"}'), config)
  shutil.rmtree(tmp_path / "joint")
  write_run(tmp_path / "joint", [chain(1)])
  assert evaluate(None, config) == before
  assert "the input no longer has 1 of the finished items: joint/c/0. They stay" in caplog.text


def test_replies_that_are_cut_off_before_an_answer_are_counted():
  cut = {"text": "So", "value": None, "correct": False, "finish_reason": "length"}
  answers = {"1.0": cut, "0.5": cut | {"value": "4"}, "0.3": cut | {"finish_reason": "stop"}}
  assert count_cut_off([{"answers": answers}, {"answers": {"1.0": cut}}]) == (2, 4)


def test_every_text_is_asked_with_the_answer_begun(evaluate, tmp_path):
  write_run(tmp_path / "joint", [chain(0, system="Be brief.")])
  teacher = ScriptedTeacher(lambda prompt: '4"}' if "and" in prompt.reply_start[0] else '5"}')
  failed, records = evaluate(teacher, config_of(str(tmp_path / "joint")))
  assert failed == 0
  asked = [(p.question, p.system, p.reply_start) for p in teacher.asked]
  assert asked == [
    ("Sum 0?", "Be brief.", ("Two and two is four.\n", '{"answer": "')),
    ("Sum 0?", "Be brief.", (" two four.\n", '{"answer": "')),
  ]
  record = records["joint/c/0"]
  assert (record["run"], record["ranking"], record["chain"]) == ("joint", "greedy", "c/0")
  assert record["answers"]["1.0"] | {"finish_reason": ""} == {
    "text": '{"answer": "4"}',
    "value": "4",
    "correct": True,
    "finish_reason": "",
  }
  assert (record["answers"]["0.5"]["value"], record["answers"]["0.5"]["correct"]) == ("5", False)


@pytest.mark.parametrize(
  ("begin", "reply", "value"),
  [
    (True, '4"}\n\nQuestion: 3 + 4?\n{"answer": "7"}', "4"),  # the first answer counts
    (True, '"}', None),
    (False, 'So {"answer": "5"}, no, {"answer": "4"}', "4"),  # the last one does
    (False, "I do not know.", None),
  ],
)
def test_which_answer_counts(evaluate, tmp_path, begin, reply, value):
  write_run(tmp_path / "joint", [chain(0)])
  teacher = ScriptedTeacher(lambda _: reply)
  _, records = evaluate(teacher, config_of(str(tmp_path / "joint"), begin_answer=begin))
  assert (teacher.asked[0].reply_start[-1] == '{"answer": "') == begin
  answer = records["joint/c/0"]["answers"]["1.0"]
  assert (answer["value"], answer["correct"]) == (value, value == "4")


def test_a_run_that_goes_on_asks_nothing_twice(evaluate, tmp_path):
  write_run(tmp_path / "joint", [chain(i) for i in range(3)])
  config = config_of(str(tmp_path / "joint"))
  refused = {"joint/c/1@0.5", "joint/c/2@1.0"}
  first = ScriptedTeacher(lambda prompt: None if prompt.id in refused else '4"}')
  failed, records = evaluate(first, config)
  assert (failed, list(records)) == (2, ["joint/c/0"])
  second = ScriptedTeacher(lambda _: '4"}')
  failed, records = evaluate(second, config)
  assert (failed, len(records)) == (0, 3)
  assert {prompt.id for prompt in second.asked} == refused
  evaluate(None, config)  # nothing is asked, so nobody is needed


def test_accuracy_of_each_run_at_each_ratio(evaluate, tmp_path):
  for run in ("a", "b"):
    write_run(tmp_path / run, [chain(i) for i in range(4)])

  def reply(prompt):
    # Run b's halves: one right, two wrong, one that says nothing. All else is right.
    if prompt.id.startswith("b/") and prompt.id.endswith("@0.5"):
      return {"b/c/0@0.5": '4"}', "b/c/3@0.5": '"}'}.get(prompt.id, '9"}')
    return '4"}'

  config = config_of(f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}", num_chains=4)
  _, records = evaluate(ScriptedTeacher(reply), config)
  rows = pruned_accuracy_table(list(records.values())).rows
  assert [row[:3] for row in rows] == [
    *[("a", 1.0, 1.0), ("a", 0.5, 1.0), ("b", 1.0, 1.0), ("b", 0.5, 0.25)]
  ]
  # Wilson's interval of 1 in 4.
  assert rows[3][3:] == (
    pytest.approx(0.04559, abs=1e-5),
    pytest.approx(0.69936, abs=1e-5),
    0.25,
    4,
  )


def test_pairs_are_on_the_same_chains():
  """Each ratio against the whole reasoning of its run, and against the first run at that ratio."""

  def record(run, chain, **right):
    answers = {ratio: {"correct": ok, "value": "1"} for ratio, ok in right.items()}
    return {"run": run, "chain": chain, "target": "1", "answers": answers}

  records = [
    record("a", "c/0", **{"1.0": True, "0.5": True}),
    record("a", "c/1", **{"1.0": True, "0.5": False}),
    record("b", "c/1", **{"1.0": True, "0.5": True}),
    record("b", "c/2", **{"1.0": True, "0.5": True}),
  ]
  rows = pruned_pairs_table(records).rows
  assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
    ("a, keep 0.5", "a, keep 1", -0.5, 2),
    ("b, keep 0.5", "b, keep 1", 0, 2),
    ("b, keep 0.5", "a, keep 0.5", 1, 1),
  ]


def test_the_first_run_is_that_of_the_settings(tmp_path, monkeypatch):
  """Whichever run's replies end first."""
  for name in ("one", "two"):
    write_run(tmp_path / name, [chain(0)])
  config = config_of(*(str(tmp_path / name) for name in ("one", "two")))
  teacher = ScriptedTeacher(lambda prompt: '4"}')
  monkeypatch.setattr(teacher, "write", lambda p: ScriptedTeacher.write(teacher, list(p)[::-1]))
  monkeypatch.setattr(pruned_chains.LocalTeacher, "load", lambda *_, **__: teacher)
  evaluate_pruned(config, str(tmp_path / "out"))
  assert [record["run"] for record in read_pruned_answers(tmp_path / "out")] == ["two", "one"]
  accuracy, pairs = (
    json.loads((tmp_path / "out" / f"{name}.json").read_text())["rows"]
    for name in ("accuracy", "pairs")
  )
  assert [row["run"] for row in accuracy] == ["one", "one", "two", "two"]
  assert [row["against"] for row in pairs] == ["one, keep 1", "two, keep 1", "one, keep 0.5"]


@pytest.mark.parametrize(
  ("answer", "target", "form", "lead"),
  [
    ('{"answer": "72"}', "72", NUMBER, '{"answer": "'),
    ("#### 72", "72", NUMBER, "####"),
    ("Thus, the final answer is: \\boxed{72}", None, BOXED, "Thus, the final answer is: \\boxed{"),
    ("The answer is (B).", "B", LETTER, "The answer is ("),
    ("Thus, the final answer is: B", None, LETTER, "Thus, the final answer is:"),
    # A number as well, but it is the letter that is right.
    ("The answer is (B) 17 m.", "B", LETTER, "The answer is ("),
    # Where nothing is right, the first form that fits.
    ("The answer is (B) 17 m.", "3", NUMBER, "The answer is"),
    # Without a marker, as sample begins one.
    (" 72.\n", "72", NUMBER, '{"answer": "'),
    ("(b)", "B", LETTER, "Thus, the final answer is:"),
    ("\n</think>\n\nyes", "Yes", BOXED, "Thus, the final answer is: \\boxed{"),
  ],
)
def test_how_answers_are_begun(answer, target, form, lead):
  expected = expected_answer(
    Chain(id="c", question="q", reasoning="r", answer=answer, target=target)
  )
  assert expected.form is form
  assert expected.lead == lead
  assert expected.target == (target or {BOXED: "72", LETTER: "B"}[form])


def test_answers_of_no_known_form_are_refused():
  with pytest.raises(UserError, match=r"chain c: no answer is found in its answer 'Yes\.'"):
    expected_answer(Chain(id="c", question="q", reasoning="r", answer="Yes."))
  with pytest.raises(UserError, match="chain c: no answer is found in its answer '5'"):
    expected_answer(Chain(id="c", question="q", reasoning="r", answer="5", target="4"))


def test_chains_without_an_answer_are_left_out_and_named(evaluate, tmp_path, caplog):
  write_run(tmp_path / "joint", [chain(0), chain(1, answer="4"), chain(2, answer="Four")])
  config = config_of(str(tmp_path / "joint"))
  _, records = evaluate(ScriptedTeacher(lambda _: '4"}'), config)
  assert {key: record["answers"]["0.5"]["correct"] for key, record in records.items()} == {
    "joint/c/0": True,
    "joint/c/1": True,
  }
  assert "run joint: 1 of 3 chains have no answer that we can tell right from" in caplog.text
  assert "left out: c/2. Begin their answers with a marker" in caplog.text
  write_run(tmp_path / "none", [chain(2, answer="Four")])
  with pytest.raises(UserError, match="no chain of these runs has an answer that we can tell"):
    evaluate(None, config_of(str(tmp_path / "none")), name="other")


@pytest.mark.parametrize(
  ("reply", "value"), [(" 4\n", "4"), ("So the answer is 4.", "4"), ("5", "5"), ("", None)]
)
def test_replies_to_a_chain_whose_answer_has_no_marker_need_none(evaluate, tmp_path, reply, value):
  write_run(tmp_path / "joint", [chain(0, answer="4")])
  config = config_of(str(tmp_path / "joint"), begin_answer=False)
  _, records = evaluate(ScriptedTeacher(lambda _: reply), config)
  answer = records["joint/c/0"]["answers"]["1.0"]
  assert (answer["value"], answer["correct"]) == (value, value == "4")


@pytest.mark.slow
def test_answers_are_those_of_transformers(tmp_path):
  make_model(tmp_path / "model")
  write_run(tmp_path / "joint", [chain(i) for i in range(2)])
  config = config_of(str(tmp_path / "joint"), model=str(tmp_path / "model"))
  with Workdir(tmp_path / "out", config, output=OUTPUT) as workdir:
    assert run_evaluate_pruned(EvaluatePrunedSettings.from_config(config), workdir) == 0

  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
  stops = [tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|end|>")]
  for record in read_pruned_answers(tmp_path / "out"):
    question = f"Sum {record['chain'][-1]}?"
    for ratio, text in (("1.0", "".join(TOKENS)), ("0.5", " two four.\n")):
      parts = (f"<|start|>user\n{question}<|end|>\n<|start|>assistant\n", text + '{"answer": "')
      ids = [i for part in parts for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
      out = model.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=8, eos_token_id=stops, pad_token_id=0
      )
      expected = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
      assert record["answers"][ratio]["text"] == '{"answer": "' + expected


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"pruned": ()}, "pruned is empty; expected workdirs of prune runs"),
    ({"pruned": ("runs/x", "other/x")}, "two runs of one name; name them apart, as NAME=DIR"),
    ({"max_new_tokens": 0}, "max_new_tokens=0; expected 1 or more"),
    ({"dtype": "float16"}, "dtype='float16'; expected one of float32, bfloat16"),
    ({"begin_answer": 1}, "begin_answer=1; expected True or False; see configs/evaluate_pruned.py"),
  ],
)
def test_settings_that_cannot_be_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    EvaluatePrunedSettings.from_config(config_of("runs/x") | change)


def test_names_of_runs():
  settings = EvaluatePrunedSettings.from_config(config_of("runs/x", "y=runs/x"))
  assert {name: str(path) for name, path in settings.runs.items()} == {"x": "runs/x", "y": "runs/x"}


def test_chains_are_the_first_by_id(evaluate, tmp_path):
  write_run(tmp_path / "joint", [chain(i) for i in (2, 0, 1)])
  teacher = ScriptedTeacher(lambda _: json.dumps("4"))
  _, records = evaluate(teacher, config_of(str(tmp_path / "joint"), num_chains=2))
  assert list(records) == ["joint/c/0", "joint/c/1"]


def test_chains_of_other_data_are_no_pairs():
  """Two data sets number their chains alike."""

  def record(run, chain, question, target):
    answer = {"correct": True, "value": target}
    whole = {"run": run, "chain": chain, "question": question, "target": target}
    return whole | {"answers": {"1.0": answer, "0.5": answer}}

  one = [record("one", f"{i}", f"sum {i}", "4") for i in range(5)]
  for changed in ({"question": "other"}, {"target": "5"}):
    other = [record_ | {"run": "other"} | changed for record_ in one[:4]]
    rows = pruned_pairs_table([*one, *other]).rows
    assert [row[:2] for row in rows] == [
      ("one, keep 0.5", "one, keep 1"),
      ("other, keep 0.5", "other, keep 1"),
    ]
  same = [record_ | {"run": "other"} for record_ in one[:4]]
  pair = ("other, keep 0.5", "one, keep 0.5")
  assert pair in [row[:2] for row in pruned_pairs_table([*one, *same]).rows]


def test_chains_of_one_question_count_as_one():
  def record(chain, question, right):
    answers = {key: {"correct": right, "value": "4"} for key in ("1.0", "0.5")}
    answers["1.0"] = answers["1.0"] | {"correct": True}
    return {
      "run": "a",
      "chain": chain,
      "question": question,
      "target": "4",
      "answers": answers,
    }

  once = [record(f"{i}", f"sum {i}", i > 2) for i in range(8)]
  copied = [record(f"{i}/{k}", f"sum {i}", i > 2) for i in range(8) for k in range(4)]
  shares = [row[2:5] for row in pruned_accuracy_table(once).rows]
  found = pruned_accuracy_table(copied).rows
  assert [row[2:5] for row in found][1] == pytest.approx(shares[1])
  assert [row[-1] for row in found] == [32, 32]
  assert pruned_pairs_table(copied).rows == pruned_pairs_table(once).rows
  mixed = [{k: v for k, v in copied[0].items() if k != "question"}, *copied[1:]]
  assert pruned_accuracy_table(mixed).rows[1][4] < shares[1][2], "then by chain"
  # Of three chains of one question nothing is said, of the one of another all is right.
  silent = [record(f"0/{k}", "sum 0", False) for k in range(3)]
  for one in silent:
    one["answers"]["0.5"] = {"correct": False, "value": None}
  row = pruned_accuracy_table([*silent, record("1", "sum 1", True)]).rows[1]
  assert (row[2], row[-2], row[-1]) == (0.5, 0.5, 4)


def test_a_run_whose_folder_has_an_equals_sign_in_its_name(tmp_path):
  place = tmp_path / "lr=3e-5"
  place.mkdir()
  config = config_of(str(place)) | {"pruned": (str(place), f"a={tmp_path}")}
  assert EvaluatePrunedSettings.from_config(config).runs == {"lr=3e-5": place, "a": tmp_path}
