import importlib.util
import signal
import threading

import pytest

from greedy_prune_jax.chains.math_check import MathChecker, same_expression
from greedy_prune_jax.errors import UserError
from tests.helpers.attacks import limits

needs_math_verify = pytest.mark.skipif(
  importlib.util.find_spec("math_verify") is None, reason="needs math-verify"
)


@pytest.fixture(scope="module")
def checker():
  checker = MathChecker(seconds=20)
  yield checker
  checker.close()


@needs_math_verify
@pytest.mark.parametrize(
  ("value", "target", "equal"),
  [
    ("0.5", r"\frac{1}{2}", True),
    (r"\frac12", r"\frac{1}{2}", True),
    ("x+1", "1 + x", True),
    ("142.0", "142", True),
    (r"(3,\pi/2)", r"\left( 3, \frac{\pi}{2} \right)", True),
    ("Evelyn", r"\text{Evelyn}", True),
    ("x=5", "5", True),
    ("6", "5", False),
    ("(2,5)", "[2,5)", False),
    ("0.33", r"\frac{1}{3}", False),
    ("}{", "3", False),
    ("10\n20", "10", False),
  ],
)
def test_equality(checker, value, target, equal):
  assert checker.equal(value, target) is equal


@needs_math_verify
@pytest.mark.parametrize(
  ("value", "target", "equal"),
  [
    ("2 1/2", "5/2", True),
    ("2  1/2", r"2\frac12", True),
    ("21/2", "2 1/2", False),
    ("3 4", "7", False),  # no mixed number
    ("7", "x = 3 4", False),
    ("3 4, 5", "7, 5", False),
    ("1 000", "1000", True),
    (r"\frac 1 2", "0.5", True),
    ("2 1/2", "21/2", False),
    ("21/2 cm", "2 1/2 cm", False),
    (r"21\frac{1}{2}", r"2 1\frac12", False),
    ("1 2", "12", False),
    ("(1 2, 3)", "(12, 3)", False),
    ("12 345", "12345", True),
    (r"\frac 1 2", r"\frac12", True),
    (r"3 \text{ cm} ", r"3\text{cm}", True),
    (r"0.\bar{3}", r"\frac{1}{3}", True),
    (r"0.1\bar6", r"0.1\overline{6}", True),
    (r"-0.\overline{3}", r"-\frac{1}{3}", True),
    (r"0.\bar{3}", "0.3", False),
  ],
)
def test_space_between_digits_and_bars_over_them(value, target, equal):
  assert same_expression(value, target) is equal
  assert same_expression(target, value) is equal


@pytest.mark.slow
@needs_math_verify
def test_a_comparison_that_takes_too_long_is_given_up_and_the_next_one_works():
  checker = MathChecker(seconds=1)
  checker.equal("1", "1")  # starts the worker, which may take longer than a comparison
  process = checker._worker._process
  assert not checker.equal("9^{9^{9^{9}}}", "1")
  assert process.poll() is not None
  assert checker.equal("0.5", r"\frac{1}{2}")
  checker.close()


@needs_math_verify
def test_a_worker_that_is_gone_is_replaced():
  checker = MathChecker(seconds=20)
  checker.equal("1", "1")
  process = checker._worker._process
  process.kill()
  process.wait()
  assert not checker.equal("1/2", "0.5")  # nobody answered
  assert checker.equal("1/2", "0.5")
  checker.close()


@needs_math_verify
def test_it_works_on_other_threads_and_leaves_alarms_alone(checker):
  signal.setitimer(signal.ITIMER_REAL, 1000)
  replies = {}

  def ask(i):
    replies[i] = checker.equal(f"{i}/7", rf"\frac{{{i % 4}}}{{7}}")

  threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert replies == {i: i < 4 for i in range(8)}
  assert signal.setitimer(signal.ITIMER_REAL, 0)[0] > 900


def test_without_its_package_it_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"needs the package math-verify; .*pip install"):
    MathChecker().equal("1", "2")


@pytest.mark.parametrize("unit", [" ", "<b></b>", "\u00a0"])
def test_texts_of_any_length_are_compared_at_once(unit):
  text = unit * (500_000 // len(unit))
  with limits(seconds=20):
    assert not same_expression(text + "6", "5")
    assert same_expression(f"{text}5{text}", f"{text}5{text}")
