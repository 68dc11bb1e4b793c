"""A dataset of pruned chains, read again by `datasets` and by ourselves."""

import json

import huggingface_hub
import pytest

from greedy_prune_jax.chains.chain import PrunedChain
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.publish.run import find_license, run_publish
from greedy_prune_jax.publish.settings import PublishSettings
from tests.chains.test_reading import OWN, RESULTS, write_jsonl

datasets = pytest.importorskip("datasets")

NLL = {"joint": [1.0, 1.5, None], "answer": [0.1, 0.2, 0.3], "reasoning": [1.0, 2.0, None]}
FIRST = OWN | RESULTS | {
  "id": "a",
  "system": "Be brief.",
  "reasoning": "<think>\n6 * 7 = 42",
  "answer": "\n</think>\n\nIt is 42.",
  "target": "42",
  "reasoning_ids": [5, 6, 7],
  "reasoning_tokens": ["<think>\n", "6 * 7", " = 42"],
  "deletion_order": [1, 0],
  "nll": NLL,
  "pruned": {"0.7": "<think>\n = 42", "0.4": " = 42"},
  "ranking": "greedy",
  "chunks": [{"chunk": "six", "kl": 0.5}],
}  # fmt: skip
SECOND = FIRST | {"id": "b", "unit_sizes": [1, 1, 1], "level": 2, "chunks": [], "system": " "}


@pytest.fixture
def publish(tmp_path, monkeypatch):
  """Publishes the two chains, and gives the folder and what was said."""
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
  write_jsonl(tmp_path / "run" / "pruned" / "process-00000.jsonl", FIRST, SECOND)
  config = {"chains": "runs/sample", "dtype": "float32", "seed": 3}
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))

  def publish(**settings):
    defaults = {"title": "", "source": "", "license": "", "push": "", "private": True}
    known = defaults | {"pruned": str(tmp_path / "run"), "keep_ratios": ()} | settings
    folder = tmp_path / "dataset"
    return folder, run_publish(PublishSettings(**known), folder)

  return publish


def test_sft_tools_get_conversations(publish):
  folder, said = publish(license="mit")
  assert "2 chains, 4 rows of messages" in said
  rows = datasets.load_dataset(str(folder), split="train").to_list()
  assert [(row["id"], row["keep_ratio"]) for row in rows] == [
    ("a", 0.7), ("a", 0.4), ("b", 0.7), ("b", 0.4)
  ]  # fmt: skip
  assert rows[0]["messages"] == [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "6 * 7?"},
    {"role": "assistant", "content": "<think>\n = 42\n</think>\n\nIt is 42."},
  ]
  assert [message["role"] for message in rows[2]["messages"]] == ["user", "assistant"]


def test_texts_that_no_model_could_write_are_no_conversations(publish, tmp_path):
  halves = FIRST | {"reasoning": "6→7", "reasoning_tokens": ["6", "", "→7"]}
  halves |= {"deletion_order": [1, 0], "pruned": {"0.7": "6\ufffd", "0.4": "\ufffd"}}
  write_jsonl(tmp_path / "run" / "pruned" / "process-00000.jsonl", halves, SECOND)
  folder, said = publish(license="mit", keep_ratios=(1.0, 0.7))
  assert "2 chains, 3 rows of messages" in said
  assert "without 1 texts that hold a part of a character" in said
  assert "1 texts are left out" in (folder / "README.md").read_text()
  rows = datasets.load_dataset(str(folder), split="train").to_list()
  assert [(row["id"], row["keep_ratio"]) for row in rows] == [("a", 1.0), ("b", 1.0), ("b", 0.7)]
  assert len(datasets.load_dataset(str(folder), "chains", split="train")[0]["pruned"]) == 2


def test_a_ratio_that_is_repeated_is_refused(publish):
  with pytest.raises(UserError, match=r"keep_ratios=\(0.5, 0.5\) repeats a ratio"):
    publish(keep_ratios=(0.5, 0.5))


def test_whoever_publishes_again_is_told_of_the_copy_that_datasets_keeps(publish, tmp_path):
  folder, said = publish(license="mit")
  assert "force_redownload" not in said
  assert len(datasets.load_dataset(str(folder), split="train")) == 4
  write_jsonl(tmp_path / "run" / "pruned" / "process-00000.jsonl", FIRST)
  folder, said = publish(license="mit")
  assert said.endswith(
    'load it with download_mode="force_redownload", verification_mode="no_checks"'
  )
  how = {"download_mode": "force_redownload", "verification_mode": "no_checks"}
  again = datasets.load_dataset(str(folder), split="train", **how)
  assert len(again) == 2


def test_the_card_of_a_run_that_is_not_complete_says_so(publish, tmp_path):
  folder, _ = publish(license="mit")
  assert "Not all chains" not in (folder / "README.md").read_text()
  (tmp_path / "run" / "unfinished").mkdir()
  folder, _ = publish(license="mit")
  said = (
    "\n\nNot all chains are here: the run was not complete: it had 2 chains then, of num_chains"
  )
  assert said in (folder / "README.md").read_text()


def test_thinking_stands_between_its_tags(publish, tmp_path):
  record = FIRST | {
    "reasoning": "6 * 7 = 42",
    "reasoning_tokens": ["6", " * 7", " = 42"],
    "pruned": {"0.7": "6 = 42", "0.4": " = 42"},
    "thinking_form": "think",
  }
  write_jsonl(tmp_path / "run" / "pruned" / "process-00000.jsonl", record)
  rows = datasets.load_dataset(str(publish()[0]), split="train").to_list()
  assert rows[0]["messages"][-1]["content"] == "<think>\n6 = 42\n</think>\n\nIt is 42."
  (chain,) = read_chains(str(tmp_path / "dataset" / "data" / "chains.parquet"))
  assert (chain.thinking_form, chain.reasoning) == ("think", "6 * 7 = 42")


def test_the_chains_come_back_whole(publish):
  folder, _ = publish()
  rows = datasets.load_dataset(str(folder), "chains", split="train").to_list()
  for row, record in zip(rows, (FIRST, SECOND), strict=True):
    expected = PrunedChain.from_record(record)
    assert row["nll"] == NLL
    assert row["deletion_order"] == [1, 0]
    assert row["unit_sizes"] == record.get("unit_sizes")
    assert json.loads(row["extra"]) == expected.chain.extra
    texts = {str(text["keep_ratio"]): text["text"] for text in row["pruned"]}
    assert texts == record["pruned"]
    assert [text["tokens"] for text in row["pruned"]] == [2, 1]
  chains = read_chains(str(folder / "data" / "chains.parquet"))
  assert [chain.reasoning for chain in chains] == [FIRST["reasoning"]] * 2


def test_the_card_tells_how_of_what_and_how_many(publish):
  folder, _ = publish(license="mit", title="Short {chains}", keep_ratios=(1.0, 0.4))
  card = huggingface_hub.DatasetCard.load(folder / "README.md")
  assert card.data.license == "mit"
  assert [config["config_name"] for config in card.data.configs] == ["messages", "chains"]
  for text in (
    "# Short {chains}",
    "from runs/sample,",
    "licence of their source: mit",
    "| pruner | `tiny` |",
    "| objective | `joint` |",
    "| search | `exact` |",
    "| seed | `3` |",
    "| 1.0 | 2 | 3.0 |",
    "| 0.4 | 2 | 1.0 |",
    "`chains` (2 rows)",
  ):
    assert text in " ".join(card.text.split("\n")) or text in card.text, text
  rows = datasets.load_dataset(str(folder), split="train")
  assert rows["keep_ratio"][:2] == [1.0, 0.4]


def test_another_ratio_and_another_folder_are_refused(publish, tmp_path):
  with pytest.raises(UserError, match=r"chain a was not pruned to 0.1: .*; it has 0.7, 0.4"):
    publish(keep_ratios=(0.1,))
  with pytest.raises(UserError, match=r"keep_ratios=\(1.5,\) has 1.5"):
    publish(keep_ratios=(1.5,))
  with pytest.raises(UserError, match="push='name'; expected ORG/NAME"):
    publish(push="name")
  (tmp_path / "dataset" / "README.md.new").write_text("x")  # of a run that was killed there
  publish()
  (tmp_path / "dataset" / "thesis.tex").write_text("x")
  with pytest.raises(UserError, match=r"dataset holds thesis.tex"):
    publish()


def test_without_a_token_nothing_is_pushed(publish, monkeypatch):
  monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
  monkeypatch.setattr(huggingface_hub, "HfApi", None)  # would be called
  _, said = publish(push="org/name", license="mit")
  assert "not pushed: there is no token" in said
  assert "org/name would get README.md (" in said


def test_with_a_token_the_folder_is_pushed(publish, monkeypatch):
  done = []

  class Api:
    def __init__(self, token):
      assert token == "secret"

    def create_repo(self, repo, **settings):
      done.append((repo, settings))

    def upload_folder(self, repo_id, folder_path, **settings):
      if repo_id == "org/refused":
        raise ConnectionError("no room")
      done.append((repo_id, sorted(p.name for p in folder_path.rglob("*.*"))))
      return "https://hub/org/name"

  monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
  monkeypatch.setattr(huggingface_hub, "HfApi", Api)
  _, said = publish(push="org/name", license="mit")
  assert "pushed 3 files to org/name: https://hub/org/name" in said
  assert "secret" not in said
  assert done == [
    ("org/name", {"repo_type": "dataset", "private": True, "exist_ok": True}),
    ("org/name", ["README.md", "chains.parquet", "messages.parquet"]),
  ]
  with pytest.raises(UserError, match=r"cannot push .* to org/refused: no room"):
    publish(push="org/refused", license="mit")


def test_the_licence_is_that_of_the_source_on_the_hub(monkeypatch):
  asked = []

  class Api:
    def dataset_info(self, dataset):
      asked.append(dataset)
      if dataset == "org/gone":
        raise ConnectionError
      card = huggingface_hub.DatasetCardData(license=["apache-2.0"])
      return type("Info", (), {"card_data": card})

  monkeypatch.setattr(huggingface_hub, "HfApi", Api)
  assert find_license("hf:org/set:main:train") == "apache-2.0"
  assert find_license("gsm8k") == "apache-2.0"
  assert find_license("hf:org/gone:train") == "unknown"
  assert find_license("runs/sample") == find_license("gsm_symbolic") == "unknown"
  assert asked == ["org/set", "openai/gsm8k", "org/gone"]
