import json
import sys

import pytest

from greedy_prune_jax.chains.chain import Chain, PrunedChain
from greedy_prune_jax.chains.reading import (
  read_chains,
  read_pruned,
  run_of,
  unfinished_note,
  warn_of_unfinished,
)
from greedy_prune_jax.errors import UserError

OWN = {"id": "a", "question": "6 * 7?", "reasoning": "6 * 7 = 42\n", "answer": '{"answer": "42"}'}
PUBLISHED = {
  "system_prompt": "Be brief.",
  "user_prompt": "6 * 7?",
  "response_reason": "6 * 7 = 42\n",
  "response_answer": '{"answer": "42"}',
  "model": "someone",
}
GSM8K = {
  "question": "Half of 48, and 48?",
  "answer": "Half is 48/2 = <<48/2=24>>24.\nThat is 48+1,024 = <<48+1024=1072>>1,072.\n#### 1,072",
}
RESULTS = {
  "pruner": "tiny",
  "objective": "joint",
  "search": "exact",
  "unit": "token",
  "reasoning_ids": [5, 6],
  "reasoning_tokens": ["6 * 7 = 42", "\n"],
  "deletion_order": [1],
  "nll": {"joint": [1.0, 1.5], "answer": [0.5, 0.5], "reasoning": [1.5, 2.0]},
  "pruned": {"0.5": "6 * 7 = 42"},
  "positions_scored": 1,
  "seconds": 0.1,
}


def write_jsonl(path, *records):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
  return str(path)


def test_our_own_form(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", OWN | {"teacher": "t"}, "\n", OWN | {"id": "b"})
  first, second = read_chains(path)
  assert first == Chain(**OWN, extra={"teacher": "t"})
  assert second.id == "b"


def test_our_own_form_keeps_its_form_of_thinking(tmp_path):
  record = OWN | {"answer": "\n</think>\n\n42", "thinking_form": "think"}
  (chain,) = read_chains(write_jsonl(tmp_path / "x.jsonl", record))
  assert chain.to_record() == record


def test_the_published_form_keeps_its_system_prompt_and_other_keys(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", PUBLISHED, PUBLISHED | {"id": 7, "system_prompt": ""})
  first, second = read_chains(path)
  assert first == Chain(**(OWN | {"id": "x/0"}), system="Be brief.", extra={"model": "someone"})
  assert (second.id, second.system) == ("7", None)


@pytest.mark.parametrize(
  ("reasoning", "answer", "told"),
  [
    *(("6 * 7 is 42.", "42", True), ("6 * 7 is 42", "Thus 42", True)),
    *(("6 * 7 is 42.\n", "42", False), ("6 * 7 is 42", "\n</think>\n\n42", False)),
    *(("6 * 7 is 42.", '{"answer": 42}', False), ("6 * 7 is $", "42$", False)),
  ],
)
def test_an_answer_that_touches_the_reasoning_is_told_of_once(
  tmp_path, caplog, reasoning, answer, told
):
  row = OWN | {"reasoning": reasoning, "answer": answer}
  path = write_jsonl(tmp_path / "x.jsonl", row, row | {"id": "b"})
  assert len(list(read_chains(path))) == 2
  assert caplog.text.count("nothing stands between them") == told
  assert not told or "x.jsonl, line 1: reasoning and answer are read as one text" in caplog.text


def test_gsm8k_rows(tmp_path):
  (chain,) = read_chains(write_jsonl(tmp_path / "gsm8k_test.jsonl", GSM8K | {"level": 2}))
  assert chain.id == "gsm8k_test/0"
  assert chain.reasoning == "Half is 48/2 = 24.\nThat is 48+1,024 = 1,072.\n"
  assert chain.answer == '{"answer": "1072"}'
  assert chain.target == "1072"
  assert '{"answer": ' in chain.system
  assert chain.extra == {"level": 2}


def test_forms_may_be_mixed_in_one_file_and_ids_count_lines(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", OWN, "\n", GSM8K, PUBLISHED)
  assert [chain.id for chain in read_chains(path)] == ["a", "x/2", "x/3"]


def test_a_workdir_is_read_again_without_its_results_and_torn_line(tmp_path):
  write_jsonl(tmp_path / "config.json")
  write_jsonl(tmp_path / "metrics.jsonl", {"step": 1})
  write_jsonl(tmp_path / "pruned" / "process-00000.jsonl", OWN | RESULTS)
  write_jsonl(tmp_path / "pruned" / "process-00001.jsonl", OWN | RESULTS | {"id": "b"}, '{"id": "c')
  chains = list(read_chains(str(tmp_path)))
  assert chains == [Chain(**OWN), Chain(**(OWN | {"id": "b"}))]
  pruned = list(read_pruned(tmp_path))
  assert [p.chain for p in pruned] == chains
  assert isinstance(pruned[0], PrunedChain)
  assert pruned[0].pruned == {"0.5": "6 * 7 = 42"}


def test_read_pruned_names_the_line_that_is_no_pruned_chain(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", OWN | RESULTS, OWN)
  with pytest.raises(UserError, match=r'x.jsonl, line 2: lacks the key "reasoning_ids"'):
    list(read_pruned(path))


def test_a_pruned_chain_that_comes_twice_is_named(tmp_path):
  one = write_jsonl(tmp_path / "1.jsonl", OWN | RESULTS | {"id": "b"}, OWN | RESULTS)
  write_jsonl(tmp_path / "2.jsonl", OWN | RESULTS)
  with pytest.raises(UserError, match=rf'2.jsonl, line 1: repeats the id "a" of {one}, line 2'):
    list(read_pruned(tmp_path))


def test_a_run_that_is_not_complete_is_told_of(tmp_path, caplog):
  write_jsonl(tmp_path / "config.json", {"num_chains": 5})
  file = write_jsonl(tmp_path / "pruned" / "process-00000.jsonl", OWN | RESULTS)
  assert (unfinished_note(tmp_path), unfinished_note("gsm8k")) == ("", "")
  (tmp_path / "unfinished").mkdir()
  for source in (tmp_path, file, tmp_path / "pruned"):
    note = warn_of_unfinished(source)
    assert note == "the run was not complete: it had 1 chains then, of num_chains=5"
    assert f"{source}: {note}; the rest is missing here" in caplog.text


def test_num_chains_stops_before_later_lines_are_looked_at(tmp_path):
  path = write_jsonl(tmp_path / "x.jsonl", OWN, OWN | {"id": "b"}, "not JSON\n")
  assert [chain.id for chain in read_chains(path, num_chains=2)] == ["a", "b"]
  with pytest.raises(UserError, match="line 3: is not JSON"):
    list(read_chains(path, num_chains=3))


BAD = [
  ("{", "is not JSON"),
  ("[]", "is a JSON list"),
  (json.dumps(OWN | {"question": ""}), '"question" is empty'),
  (json.dumps(OWN | {"reasoning": 5}), '"reasoning" must be a string, not a whole number'),
  (json.dumps({"question": "q", "answer": "7"}), 'no "#### NUMBER"'),
  (json.dumps(PUBLISHED | {"response_answer": 5}), '"response_answer" must be a string'),
  (
    json.dumps({"user_prompt": "q"}),
    "is of no known form .its keys: user_prompt.; of the form pruner it lacks 'response_reason'",
  ),
  (json.dumps({"question": "q", "answer": "so ####"}), 'no "#### NUMBER"'),
  (json.dumps(OWN), 'repeats the id "a" of .*x.jsonl, line 1; .*such as "a/2", or none'),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_named(tmp_path, line, reason):
  path = write_jsonl(tmp_path / "x.jsonl", OWN, "\n", line + "\n")
  chains = read_chains(path)
  assert next(chains).id == "a"
  with pytest.raises(UserError, match=rf"x.jsonl, line 3: .*{reason}"):
    next(chains)


def test_bad_lines_are_left_out_and_reported_when_asked(tmp_path):
  path = write_jsonl(
    tmp_path / "x.jsonl", OWN, *(line + "\n" for line, _ in BAD), OWN | {"id": "last"}
  )
  skipped = []
  chains = list(read_chains(path, num_chains=2, on_bad=skipped.append))
  assert [chain.id for chain in chains] == ["a", "last"]
  assert [bad.place.rpartition(" ")[2] for bad in skipped] == [str(i + 2) for i in range(len(BAD))]
  assert [bad.id for bad in skipped] == [
    None,
    None,
    "a",
    "a",
    *(f"x/{i}" for i in (5, 6, 7, 8)),
    "a",
  ]
  assert "is empty" in skipped[2].reason


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 3000, "a\0b"])
def test_a_path_that_no_file_system_has_is_a_message(name):
  for read in (run_of, read_chains, read_pruned):
    with pytest.raises(UserError, match="cannot be a file's name"):
      read(name)


def test_sources_with_nothing_in_them(tmp_path):
  with pytest.raises(UserError, match=r"none.jsonl does not exist; expected .*gsm8k, math"):
    read_chains(str(tmp_path / "none.jsonl"))
  with pytest.raises(UserError, match=r"holds no chains; looked for .*\*.jsonl"):
    read_chains(str(tmp_path))
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match=r"holds no chains; looked for .*pruned/\*.jsonl"):
    read_chains(str(tmp_path))
  with pytest.raises(UserError, match=r"x.jsonl is empty"):
    list(read_chains(write_jsonl(tmp_path / "x.jsonl", "\n")))
  with pytest.raises(UserError, match="num_chains=-1"):
    read_chains(str(tmp_path), num_chains=-1)


def test_a_question_set_from_a_file_is_shuffled_by_the_seed(tmp_path):
  rows = [{"question": f"{i} + 0?", "answer": f"It is {i}.\n#### {i}"} for i in range(20)]
  source = "gsm8k:" + write_jsonl(tmp_path / "g.jsonl", *rows)
  few = [chain.id for chain in read_chains(source, num_chains=5, seed=1)]
  more = [chain.id for chain in read_chains(source, num_chains=10, seed=1)]
  every = [chain.id for chain in read_chains(source, seed=2)]
  assert more[:5] == few
  assert sorted(every) == sorted(f"g/{i}" for i in range(20))
  assert every[:10] != more


def test_math_solutions_become_chains(tmp_path):
  row = {"problem": "Half of 1?", "solution": r"It is $\boxed{\frac{1}{2}}$.", "level": 1}
  (chain,) = read_chains("math:" + write_jsonl(tmp_path / "m.jsonl", row))
  assert chain.reasoning == r"It is $\boxed{\frac{1}{2}}$." + "\n"
  assert chain.answer == r"Thus, the final answer is: \boxed{\frac{1}{2}}"
  assert chain.target == r"\frac{1}{2}"


def test_a_set_without_solutions_says_where_chains_come_from():
  with pytest.raises(UserError, match=r"mmlu_pro has no worked solutions.*pass a file of chains"):
    read_chains("mmlu_pro")


def test_gsm_symbolic_is_seeded_and_complete():
  pytest.importorskip("reasoning_gym")
  chains = list(read_chains("gsm_symbolic", num_chains=100, seed=3))
  assert chains == list(read_chains("gsm_symbolic", num_chains=100, seed=3))
  assert chains[:10] == list(read_chains("gsm_symbolic", num_chains=10, seed=3))
  assert len({chain.id for chain in chains}) == 100
  for chain in chains:
    assert chain.reasoning.endswith("\n")
    assert not chain.reasoning.endswith("\n\n")
    assert "####" not in chain.reasoning
    assert json.loads(chain.answer) == {"answer": chain.target}
    assert not chain.target.endswith(".0")
    assert "Do not include units" not in chain.question
  other = [
    {chain.question for chain in read_chains("gsm_symbolic", num_chains=100, **other)}
    for other in ({"seed": 4}, {"seed": 3, "split": "test"})
  ]
  # Some of the 100 templates have so few variants that a question may come up again.
  assert all(len(questions & {chain.question for chain in chains}) < 5 for questions in other)


def test_gsm_symbolic_without_its_package_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "reasoning_gym.arithmetic.gsm_symbolic", None)
  with pytest.raises(UserError, match="pip install reasoning-gym"):
    read_chains("gsm_symbolic", num_chains=1)
