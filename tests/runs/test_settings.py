import dataclasses

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs.settings import read_settings


@dataclasses.dataclass(frozen=True)
class Group:
  peak: float


@dataclasses.dataclass(frozen=True)
class Settings:
  name: str
  batch_size: int
  ratios: tuple[float, ...]
  group: Group


GOOD = {"name": "x", "batch_size": 8, "ratios": (0.5, 0), "group": {"peak": 2}}


def test_good_values_are_taken():
  settings = read_settings(Settings, GOOD, "f.py")
  assert settings.group == Group(2.0)
  assert [type(ratio) for ratio in settings.ratios] == [float, float]


def test_a_list_is_taken_for_a_tuple():
  settings = read_settings(Settings, GOOD | {"ratios": [0.5, 0]}, "f.py")
  assert settings == read_settings(Settings, GOOD, "f.py")
  with pytest.raises(UserError, match="has 'a'; expected a number for each"):
    read_settings(Settings, GOOD | {"ratios": [0.5, "a"]}, "f.py")
  with pytest.raises(UserError, match=r"name=\['x'\]; expected a string"):
    read_settings(Settings, GOOD | {"name": ["x"]}, "f.py")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"group": {"peak": float("inf")}}, "peak=inf; expected a finite number; see f.py"),
    ({"group": {"peak": float("nan")}}, "peak=nan; expected a finite number"),
    ({"group": {"peak": 10**400}}, "expected a number"),
    ({"batch_size": 10**9}, "batch_size=1000000000; expected at most 16777216"),
    ({"batch_size": True}, "expected a whole number"),
    ({"ratios": (0.5, float("nan"))}, "ratios=nan; expected a finite number"),
    ({"ratios": (0.5, "a")}, "has 'a'; expected a number for each"),
    ({"name": "a\0b"}, "has a NUL character"),
  ],
)
def test_what_no_machine_can_do_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    read_settings(Settings, GOOD | changes, "f.py")
