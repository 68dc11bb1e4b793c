import datetime
import json
import re
from pathlib import Path

import pytest

from greedy_prune_jax.chains.answers import NUMBER, split_response
from greedy_prune_jax.chains.question_sets import QUESTION_SETS, QuestionSet, load_questions
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.rows import HubSplit
from greedy_prune_jax.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
GSM8K = [{"question": f"{i} + 1?", "answer": f"It is {i + 1}.\n#### {i + 1}"} for i in range(5)]


def write_jsonl(path, *records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return path


def test_every_set_asks_for_the_form_that_it_reads():
  for question_set in QUESTION_SETS.values():
    form = question_set.form
    line = form.write("B" if form is QUESTION_SETS["mmlu_pro"].form else "7")
    shape = re.sub("7|B", lambda m: {"7": "(NUMBER|ANSWER)", "B": "LETTER"}[m[0]], re.escape(line))
    assert not form.instruction or re.search(shape + "$", form.instruction)
    assert split_response(f"So.\n{line}", form).answer == line


def test_gsm8k(tmp_path):
  path = write_jsonl(
    tmp_path / "rows.jsonl",
    {"question": "How many?", "answer": "12*100=<<12*100=1200>>1,200\n#### 1,200", "level": 1},
  )
  (question,) = load_questions(f"gsm8k:{path}")
  assert question.id == "rows/0"
  assert question.question == "How many?"
  assert question.target == "1200"
  assert question.rationale == "12*100=1,200\n"
  assert question.extra == {"level": 1}
  assert question.system.endswith('{"answer": "NUMBER"}')


@pytest.mark.parametrize(
  ("row", "target"),
  [
    ({"problem": "p", "solution": r"so $\boxed{\frac{1}{2}}$", "level": 5}, r"\frac{1}{2}"),
    ({"problem": "p", "solution": r"so $\boxed{0.5}$", "answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
    ({"problem": "p", "answer": "1,2,3"}, "1,2,3"),
    ({"problem": "p", "solution": r"so \boxed 2."}, "2"),
    ({"problem": "p", "solution": r"so $\boxed{2.}$"}, "2"),
    ({"problem": "p", "solution": r"so \boxed{.5}, at last."}, ".5"),
    ({"problem": "p", "answer": " 2;\n"}, "2"),
    ({"problem": "p", "solution": r"$\boxed{3}$ or $\boxed{5}$."}, "3, 5"),
    ({"problem": "p", "answer": 142.0, "id": 7}, "142"),  # AMC
    ({"problem": "p", "answer": "033"}, "033"),  # AIME
  ],
)
@pytest.mark.parametrize("name", ["math", "aime", "amc"])
def test_math_aime_and_amc(tmp_path, name, row, target):
  (question,) = load_questions(f"{name}:{write_jsonl(tmp_path / 'rows.jsonl', row)}")
  assert (question.question, question.target) == ("p", target)
  assert question.id == "rows/0"
  assert question.rationale == row.get("solution")
  assert question.system.endswith(r"\boxed{ANSWER}")


def test_mmlu_pro(tmp_path):
  row = {
    "question_id": 70,
    "question": " Which? ",
    "options": ["this", "that", "both"],
    "answer": "C",
    "answer_index": 2,
    "cot_content": "",
    "category": "logic",
  }
  (question,) = load_questions(f"mmlu_pro:{write_jsonl(tmp_path / 'rows.jsonl', row)}")
  assert question.question == "Which?\n\nOptions:\nA. this\nB. that\nC. both"
  assert question.target == "C"
  assert question.extra == {"question_id": 70, "category": "logic"}
  assert question.rationale is None


def test_mmlu_pro_takes_as_many_options_as_there_are_letters(tmp_path):
  row = {"question": "q", "options": [str(i) for i in range(10)], "answer": "J"}
  (question,) = load_questions(f"mmlu_pro:{write_jsonl(tmp_path / 'rows.jsonl', row)}")
  assert question.question.endswith("\nJ. 9")
  assert question.target == "J"


def test_a_row_may_bring_its_own_id_and_instruction(tmp_path):
  path = write_jsonl(tmp_path / "rows.jsonl", GSM8K[0] | {"id": "mine", "system": "Be brief."})
  (question,) = load_questions(f"gsm8k:{path}")
  assert (question.id, question.system) == ("mine", "Be brief.")


@pytest.mark.parametrize(
  ("source", "row", "reason"),
  [
    ("gsm8k", {"question": "q"}, 'lacks the key "answer"'),
    ("gsm8k", {"question": "q", "answer": "7"}, 'has no "#### NUMBER"'),
    ("math", {"problem": "p", "solution": "so 5"}, r'"solution" has no \\boxed'),
    ("math", {"problem": "p"}, 'lacks the key "answer"'),
    ("math", {"problem": "p", "answer": " "}, '"answer" is empty'),
    ("mmlu_pro", {"question": "q", "options": ["a"], "answer": "B"}, "not one letter of the 1 opt"),
    *(
      ("mmlu_pro", {"question": "q", "options": ["a"] * 11, "answer": x}, "at most 10, A to J")
      for x in "AK"
    ),
    ("mmlu_pro", {"question": "q", "options": [1], "answer": "A"}, 'item 0 of "options" must be'),
  ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, source, row, reason):
  path = write_jsonl(tmp_path / "rows.jsonl", row)
  with pytest.raises(UserError, match=rf"rows.jsonl, line 1: .*{reason}"):
    load_questions(f"{source}:{path}")


@pytest.mark.parametrize("target", ["3, 5", "x = 3 or 5", "1,2", "seven", "NaN", "inf", "1/0"])
def test_a_target_that_is_not_one_number_is_refused(tmp_path, target):
  path = write_jsonl(tmp_path / "rows.jsonl", {"question": "q", "answer": f"So.\n#### {target}"})
  with pytest.raises(UserError, match=r"line 1: \"answer\" gives the target .* not one number"):
    load_questions(f"gsm8k:{path}")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("source", ["math", "gsm8k", "mmlu_pro"])
def test_a_number_that_is_none_is_no_target(tmp_path, source, value):
  (tmp_path / "rows.jsonl").write_text(f'{{"problem": "p", "question": "q", "answer": {value}}}\n')
  with pytest.raises(UserError, match=r"line 1: (is not JSON|has the number .* beyond the range)"):
    load_questions(f"{source}:{tmp_path / 'rows.jsonl'}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gap_in_a_column_of_numbers_is_no_target(tmp_path, value, monkeypatch):
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  rows = datasets.Dataset.from_list(
    [{"problem": "p", "answer": 4.5}, {"problem": "q", "answer": value}]
  )
  rows.to_parquet(tmp_path / "rows.parquet")
  with pytest.raises(UserError, match=r"row 1: \"answer\" must be .* a number, not null"):
    load_questions(f"math:{tmp_path / 'rows.parquet'}")


@pytest.mark.parametrize("name", ["rows.parquet", "folder", "hub"])
def test_further_keys_are_such_as_records_can_hold(tmp_path, name, monkeypatch):
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  odd = {"at": datetime.datetime(2025, 1, 2), "score": float("nan"), "raw": b"x"}
  rows = datasets.Dataset.from_list([GSM8K[0] | odd, GSM8K[1] | odd | {"score": 1.5}])
  rows.to_parquet(tmp_path / "rows.parquet")
  rows.save_to_disk(tmp_path / "folder")
  if name == "hub":
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
  questions = load_questions("gsm8k" if name == "hub" else f"gsm8k:{tmp_path / name}")
  for question in questions:
    score = 1.5 if question.target == "2" else None
    assert question.extra == {"at": "2025-01-02T00:00:00", "score": score}
    json.dumps(question.extra, allow_nan=False)


def test_seed_and_count(tmp_path):
  source = f"gsm8k:{write_jsonl(tmp_path / 'rows.jsonl', *GSM8K)}"
  ids = [question.id for question in load_questions(source, seed=3)]
  assert sorted(ids) == [f"rows/{i}" for i in range(5)]
  assert [q.id for q in load_questions(source, num_questions=2, seed=3)] == ids[:2]
  assert any([q.id for q in load_questions(source, seed=seed)] != ids for seed in range(4, 7))


def test_other_kinds_of_local_copies(tmp_path, monkeypatch):
  datasets = pytest.importorskip("datasets")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  rows = datasets.Dataset.from_list(GSM8K)
  rows.to_parquet(tmp_path / "rows.parquet")
  rows.to_csv(tmp_path / "rows.csv")
  rows.to_json(tmp_path / "rows.json")
  rows.save_to_disk(tmp_path / "one")
  datasets.DatasetDict({"train": rows.select([0]), "test": rows}).save_to_disk(tmp_path / "two")
  clone = tmp_path / "clone"  # as the hub has it: two configurations, two splits each
  for config in ("main", "socratic"):
    (clone / config).mkdir(parents=True)
    rows.to_parquet(clone / config / "test-00000-of-00001.parquet")
    rows.select([0]).to_parquet(clone / config / "train-00000-of-00001.parquet")
  configs = "".join(
    f"- config_name: {config}\n  data_files:\n"
    + "".join(f"  - split: {s}\n    path: {config}/{s}-*\n" for s in ("train", "test"))
    for config in ("main", "socratic")
  )
  (clone / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
  for name in ("rows.parquet", "rows.csv", "rows.json", "one", "two", "clone"):
    questions = load_questions(f"gsm8k:{tmp_path / name}", split="test")
    assert sorted(question.target for question in questions) == ["1", "2", "3", "4", "5"], name
  for name in ("two", "clone"):
    (question,) = load_questions(f"gsm8k:{tmp_path / name}", split="train")
    assert question.target == "1"


def test_a_local_copy_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(UserError, match=r"none.jsonl does not exist"):
    load_questions(f"gsm8k:{tmp_path / 'none.jsonl'}")
  (tmp_path / "rows.parquet").write_text("no parquet")
  with pytest.raises(UserError, match=r"cannot read .*rows.parquet as a dataset"):
    load_questions(f"gsm8k:{tmp_path / 'rows.parquet'}")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"cannot read .*empty as a dataset"):
    load_questions(f"gsm8k:{tmp_path / 'empty'}")


def test_without_a_network_the_error_says_what_to_pass_instead():
  # conftest.py sets HF_HUB_OFFLINE
  with pytest.raises(
    UserError, match=r"cannot load math .test.: looked for HuggingFaceH4/MATH-500 .*math:PATH"
  ):
    load_questions("math", split="test")


def test_the_hub_is_asked_for_the_right_part(monkeypatch):
  datasets = pytest.importorskip("datasets")
  asked = []

  def load_dataset(*args, **kwargs):
    asked.append((args, kwargs))
    return GSM8K

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  questions = load_questions("gsm8k", split="test", num_questions=5)
  assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]
  assert {question.id for question in questions} == {f"gsm8k/test/{i}" for i in range(5)}
  assert QUESTION_SETS["math"].splits["test"] == HubSplit("HuggingFaceH4/MATH-500", None, "test")


def test_unknown_names():
  with pytest.raises(
    UserError, match=r"unknown question set 'gsm9k'; .* gsm8k, math, mmlu_pro.*gsm8k:PATH have"
  ):
    load_questions("gsm9k")
  with pytest.raises(UserError, match="split='dev'; expected train or test"):
    load_questions("gsm8k", split="dev")
  with pytest.raises(UserError, match="amc has no train split; it has test"):
    load_questions("amc")
  with pytest.raises(UserError, match="-1 questions of gsm8k"):
    load_questions("gsm8k", num_questions=-1)


def test_gsm_symbolic_gives_questions():
  pytest.importorskip("reasoning_gym")
  questions = load_questions("gsm_symbolic", num_questions=3, split="test")
  assert [q.id for q in questions] == [f"gsm_symbolic/10000000/{i}" for i in range(3)]


@pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}")
@pytest.mark.parametrize(
  ("source", "count"),
  [("gsm8k", "gsm8k_train 7473"), ("gsm8k", "gsm8k_test 1319"), ("math", "math500 500")],
)
def test_real_rows_all_parse(source, count):
  name, number = count.split()
  questions = load_questions(f"{source}:{DATA / name}.jsonl")
  assert len(questions) == int(number)
  assert not any("<<" in question.rationale for question in questions)


def test_templates_of_gsm_symbolic():
  pytest.importorskip("reasoning_gym")
  everything = load_questions("gsm_symbolic", num_questions=200)
  some = load_questions("gsm_symbolic@26,58", num_questions=3)
  assert {question.extra["template"] for question in some} <= {26, 58}
  assert some == [q for q in everything if q.extra["template"] in (26, 58)][:3]
  assert load_questions("gsm_symbolic@26,58", num_questions=2) == some[:2]


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("gsm_symbolic@3,x", "gsm_symbolic@3,x: expected numbers of templates behind the @"),
    ("gsm_symbolic@3,32", "gsm_symbolic has no template 32; it has 0,1,2"),
  ],
)
def test_templates_that_there_are_not(source, message):
  pytest.importorskip("reasoning_gym")
  with pytest.raises(UserError, match=message):
    load_questions(source, num_questions=1)


def test_a_column_named_like_a_key_of_a_chain_is_not_carried_along(tmp_path):
  row = GSM8K[0] | {"target": "gold", "reasoning": "none", "seconds": 1, "level": 1}
  (question,) = load_questions(f"gsm8k:{write_jsonl(tmp_path / 'rows.jsonl', row)}")
  assert question.extra == {"level": 1}


def test_two_rows_of_one_id(tmp_path):
  rows = [row | {"id": "same"} for row in GSM8K[:2]]
  with pytest.raises(UserError, match=r"rows.jsonl, line [12]: another row has the id 'same'"):
    load_questions(f"gsm8k:{write_jsonl(tmp_path / 'rows.jsonl', *rows)}")


def test_a_set_is_added_in_one_place(tmp_path, monkeypatch):
  """One entry of the registry, and its questions, its chains and its errors are known by name."""

  def parse(row):
    return {"question": row["ask"], "target": row["gold"], "rationale": row["why"]}

  monkeypatch.setitem(QUESTION_SETS, "toy", QuestionSet(form=NUMBER, parse=parse))
  path = write_jsonl(tmp_path / "rows.jsonl", {"ask": "1 + 1?", "gold": "2", "why": "It is 2.\n"})
  (question,) = load_questions(f"toy:{path}")
  assert (question.question, question.target) == ("1 + 1?", "2")
  assert question.system == NUMBER.instruction
  (chain,) = read_chains(f"toy:{path}")
  assert (chain.reasoning, chain.answer, chain.target) == ("It is 2.\n", '{"answer": "2"}', "2")
  with pytest.raises(UserError, match=r"one of .*toy"):
    load_questions("tiy")
  with pytest.raises(UserError, match="toy has no train split"):
    load_questions("toy")
