"""Notebook 16 in a real JupyterLab: all cells run, and a change of the prompt shows up on the page.

Needs Chromium with its driver, and selenium (pip install -e .[browser]); skipped without them.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import papermill
import pytest

from tests.conftest import REPOSITORY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PATIENCE = 300  # seconds for a slow machine; nothing waits longer than it must
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},  # every cell stays on the page
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install -e .[browser])")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver is installed")


@contextmanager
def jupyterlab(folder, environment):
    """Address of a JupyterLab of this test's own on a free port."""
    for name, values in SETTINGS.items():
        file = folder / "lab" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", "--IdentityProvider.token=test", f"--ServerApp.root_dir={folder}"],
        env=environment | own | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "lab")}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True)
    try:
        log = []
        for line in server.stderr:
            log.append(line)
            if "is running at" in line:
                break
        else:
            pytest.fail("JupyterLab did not start:\n" + "".join(log[-20:]))
        threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@contextmanager
def browser(screenshot):
    """Chromium; what it shows at the end, be it a failure, is kept as a picture."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1300"):
        options.add_argument(argument)
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.save_screenshot(str(screenshot))
        driver.quit()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An outputs folder of this module's own."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(phantom_root, outputs):
    """One fold trained long enough that words in a prompt move its outline."""
    from xbuslib.config import resolve
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source

    config = resolve("smoke", ["iterations=60", "folds=2", "learning_rate=2e-3"])
    source = open_source("phantom", phantom_root, None, config, "browser")
    return run_fold("xbusnet", 0, config, source, study="browser")


def expected(trained):
    """(margin word, prompt, measurements) that the page must show before and after a change of margin."""
    from xbuslib.lesion import page, widget
    from xbuslib.runs.trained import Trained

    desk = widget.Desk([Trained.load(trained)], widget.examples())

    def shown():
        return (page.prompt_texts(desk.report)[-1][1],
                [value for _, value, _ in page.measured(desk.report)])

    before = shown()
    for word in widget.MARGINS:
        desk.words["margin"].value = word
        if shown()[1] != before[1]:
            return before, word, shown()
    pytest.fail("no margin word moves the outline of this model")


def test_a_change_of_margin_shows_on_the_page(trained, outputs, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as condition
    from selenium.webdriver.support.ui import Select, WebDriverWait

    before, word, after = expected(trained)
    notebook = REPOSITORY / "notebooks" / "16_segment_your_image.ipynb"
    papermill.execute_notebook(str(notebook), str(tmp_path / "16.ipynb"), {"study": "browser"}, prepare_only=True,
                               kernel_name="python3", progress_bar=False)
    environment = os.environ | {"XBUS_OUTPUTS": str(outputs), "PYTHONPATH": str(REPOSITORY)}
    with jupyterlab(tmp_path, environment) as address, browser(tmp_path / "desk.png") as driver:
        wait = WebDriverWait(driver, PATIENCE)
        driver.get(f"{address}/lab/tree/14.ipynb?token=test")
        wait.until(condition.presence_of_element_located((By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell")))
        ready = "//*[contains(@class, 'jp-StatusBar-TextItem')][contains(., 'Idle')]"  # the kernel
        wait.until(condition.presence_of_element_located((By.XPATH, ready)))
        wait.until(condition.element_to_be_clickable((By.XPATH, "//li[contains(@class, 'lm-MenuBar-item')]"
                                                      "[.//div[text()='Run']]"))).click()
        wait.until(condition.element_to_be_clickable((By.CSS_SELECTOR, "li[data-command='runmenu:run-all']"))).click()

        def page():
            """The local prompt and the values of the measurements as the reader sees them."""
            prompts = driver.find_elements(By.CSS_SELECTOR, ".xbus-prompts li")
            values = driver.find_elements(By.CSS_SELECTOR, ".xbus-measured b")
            return prompts[-1].text if prompts else "", [value.text for value in values]

        def shows(state):
            prompt, values = state
            return lambda _: prompt in page()[0] and page()[1] == values

        wait.until(shows(before), f"the page does not show {before}")
        last = "//div[contains(@class, 'jp-RenderedMarkdown')][contains(., 'Read again from')]"
        wait.until(condition.presence_of_element_located((By.XPATH, last)))  # the notebook ran to its end
        margin = driver.find_element(By.XPATH, "//label[text()='Margin']/following-sibling::select")
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", margin)
        Select(margin).select_by_visible_text(word)
        wait.until(shows(after), f"the page does not show {after} but {page()}")
        assert f"{word} margin" in page()[0] and before[1] != after[1] == page()[1]
        picture = driver.find_element(By.CSS_SELECTOR, ".jp-OutputArea img.widget-image")
        assert picture.is_displayed() and picture.size["width"] > 200
        assert not driver.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output[data-mime-type*='stderr']")


def test_the_report_prints_to_one_sheet_of_a4(trained, tmp_path):
    """With all that can stand on it: an ensemble of five, a long margin, several regions, no pixel size."""
    import numpy as np

    from xbuslib.lesion import ensemble, page, structured_report, widget
    from xbuslib.runs.trained import Trained

    run, example = Trained.load(trained), widget.examples()[0]
    prompt = ensemble.user_prompt("irregular", "spiculated,angular,microlobulated,indistinct", "4c", "medium",
                                  "lower right")
    picture = widget.reading.with_pixel_size(widget.reading.read(example.path), None)
    found = ensemble.segment([run] * 5, picture, prompt)
    assert found.disagreement is not None and np.isfinite(found.disagreement).all()
    report = structured_report.make(picture, found, prompt)
    folder = page.write(tmp_path / "a", picture, found, report)
    subprocess.run([CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
                    f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer",
                    f"--print-to-pdf={tmp_path / 'report.pdf'}",
                    (folder / "report.html").as_uri()], check=True, capture_output=True, timeout=PATIENCE)
    content = (tmp_path / "report.pdf").read_bytes()
    assert re.findall(rb"/Count (\d+)", content) == [b"1"]  # pages
    assert b"/MediaBox [0 0 59" in content  # A4: 595 by 842 points
