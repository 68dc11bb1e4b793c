"""A headless Chromium, where this machine has one."""

import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
  """A selenium driver whose log of errors can be read."""
  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  driver = shutil.which("chromedriver")
  if chromium is None or driver is None:
    pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
    options.add_argument(argument)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  with webdriver.Chrome(options, webdriver.ChromeService(driver)) as found:
    yield found
