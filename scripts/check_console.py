"""Tests the console in a real browser: signs in, opens every page, follows a live
run to its end, compares, clones, downloads, authorizes a program. Uses light and
dark mode, wide and phone-sized windows, only the keyboard, and no JavaScript.

    apt-get install chromium chromium-driver
    pip install selenium requests
    npm pack axe-core && tar xzf axe-core-*.tgz package/axe.min.js
    python scripts/check_console.py [--shots FOLDER] [--axe package/axe.min.js] [--profile release]

Fails if a page differs from what is expected, is wider than a phone, or causes an
error or warning in the browser. `--shots` saves a screenshot of each page, `--axe`
checks the accessibility of each page.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import requests
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

ROOT = Path(__file__).resolve().parent.parent
WIDE, NARROW = (1400, 900), (390, 844)
# Bytes of a page with its style sheets and scripts; those of runs have the library for charts.
HEAVIEST = {"experiments": 100_000}
HEAVIEST_OTHER = 150_000
LIST, RUNS = "/console/experiments/default", "/console/experiments/default/runs"
# Time limit for everything that the script waits for.
PATIENCE = 300


class Server:
    def __init__(self, program, folder):
        self.process = subprocess.Popen(
            [program, "serve", "--address", "127.0.0.1:0", "--data", folder, "--checkpoint-every", "1"],
            stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "is ready at" in line:
                self.url = line.split()[-1]
            if line.startswith("Token"):
                self.token = line.split()[-1]
            if line.startswith("Console"):
                self.link = line.split()[-1]
                break

    def call(self, method, path, **more):
        headers = {"Authorization": f"token {self.token}"}
        answer = requests.request(method, self.url + path, headers=headers, timeout=60, **more)
        answer.raise_for_status()
        return answer.json()

    def fit(self, name, epochs, **more):
        config = {
            "model": {"name": "clip-small"},
            "data": {"train_data": "clip-fashion-train-data", "eval_data": "clip-fashion-eval-data"},
            "callbacks": [{"name": "EvaluationCallback", "options": {
                "query_data": "clip-fashion-eval-data", "gather_examples": True, "limit": 8,
                "steps_per_interval": 10}}],
            "hyper_parameters": {"loss": "CLIPLoss", "epochs": epochs, "batch_size": 8,
                                 "learning_rate": 1e-4, **more},
        }
        body = {"name": name, "config": config, "device": "cpu", "cpus": 1, "gpus": 1}
        self.call("POST", "/api/v1/experiments/default/runs", json=body)


class Browser:
    def __init__(self, server, shots=None, axe=None):
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.server, self.shots, self.axe = server, shots, axe
        self.seen, self.weights, self.times = [], {}, {}
        self.size(WIDE)

    def size(self, size):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW})

    def dark(self, dark):
        # Without reduced motion, colours fade after the change and are looked at halfway.
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                         {"name": "prefers-reduced-motion", "value": "reduce"}]})

    def open(self, path):
        self.driver.get(self.server.url + path)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, what, condition):
        # The page may be reloaded while a condition is checked: after a click, or when the
        # state of the run on a live page changes.
        WebDriverWait(self.driver, PATIENCE, 0.2, ignored_exceptions=[WebDriverException]).until(
            lambda _: condition() or False, what)

    def text(self):
        return self.find("main").text

    def photograph(self, name):
        """Saves a screenshot of the whole page, even if it is longer than the window."""
        if self.shots:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            width = self.driver.execute_script("return innerWidth")
            picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "width": width, "height": min(height, 6000), "scale": 1}})
            (self.shots / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))

    def barriers(self, name):
        """Returns the accessibility problems that axe-core finds."""
        if self.axe:
            self.driver.execute_script(self.axe)
            found = self.driver.execute_async_script(
                "const done = arguments[0]; axe.run().then(r => done(r.violations))")
            told = [f"{v['id']}: {v['help']}: {[n['html'][:200] for n in v['nodes'][:3]]}" for v in found]
            assert not told, f"{name}: {told}"

    def weigh(self, name):
        """Notes the bytes of the page with its style sheets and scripts, as they were sent, and the time until the page
        had arrived. Images of the data do not count."""
        weight, milliseconds = self.driver.execute_script(
            "const [page] = performance.getEntriesByType('navigation');"
            "const parts = performance.getEntriesByType('resource').filter(r => /link|script/.test(r.initiatorType));"
            "return [parts.reduce((sum, part) => sum + part.encodedBodySize, page.encodedBodySize),"
            "        page.responseEnd - page.requestStart]")
        limit = HEAVIEST.get(name, HEAVIEST_OTHER)
        assert 0 < weight <= limit, f"{name} has {weight} bytes, more than {limit}"
        self.weights[name], self.times[name] = weight, milliseconds

    def says(self, text, what=None):
        """Waits until the page contains a text."""
        self.wait(what or f"`{text}`", lambda: text in self.text())

    def clean(self, page):
        """Checks that the browser reports no errors or warnings. An error page is itself sent with an error status, which
        does not count."""
        complaints = [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        own = f"{self.driver.current_url} - Failed to load resource: the server responded with a status of 4"
        complaints = [text for text in complaints if not text.startswith(own)]
        assert not complaints, f"{page}: {complaints}"

    def look(self, name, path, *wanted):
        """Opens a page and checks that it contains some texts, in light and dark mode and in all widths."""
        self.open(path)
        for text in wanted:
            assert text in self.driver.page_source, f"{name}: `{text}` is missing"
        self.weigh(name)
        for size, how in ((WIDE, "wide"), (NARROW, "narrow")):
            self.size(size)
            for dark in (False, True):
                self.dark(dark)
                self.photograph(f"{name}-{how}-{'dark' if dark else 'light'}")
                self.barriers(f"{name}, {how}, {'dark' if dark else 'light'}")
            width = self.driver.execute_script("return document.scrollingElement.scrollWidth")
            assert width <= size[0], f"{name} is {width} pixels wide on a screen of {size[0]}"
            assert self.contrast() >= 4.5, f"{name}: the contrast is {self.contrast()}"
        self.size(WIDE)
        self.dark(False)
        assert len(self.all("h1")) == 1, f"{name}: there must be exactly one h1"
        for image in self.all("img"):
            assert image.get_attribute("alt"), f"{name}: an image has no alt text"
        for field in self.all("input:not([type=hidden]), select"):
            label = field.get_attribute("aria-label") or self.driver.execute_script(
                "return arguments[0].labels.length > 0", field)
            assert label, f"{name}: a field has no label"
        self.clean(name)
        self.seen.append(name)

    def contrast(self):
        """Returns the contrast between the text and its background."""
        colours = self.driver.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
        def light(colour):
            parts = [int(n) / 255 for n in re.findall(r"\d+", colour)[:3]]
            parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
        low, high = sorted(map(light, colours))
        return (high + 0.05) / (low + 0.05)


def pictures_are_there(browser):
    script = "return [...document.images].filter(i => i.loading != 'lazy' || i.getBoundingClientRect().top < innerHeight)" \
             ".every(i => i.complete && i.naturalWidth > 0)"
    browser.wait("pictures", lambda: browser.driver.execute_script(script))


def check(server, browser):
    driver = browser.driver
    # Sign-in with the link, and with a token. A wrong token gives an error message.
    driver.get(server.link)
    browser.says("Experiments")
    browser.find("header form button").click()
    browser.wait("being signed out", lambda: browser.all("#password"))
    browser.look("sign-in", "/console/signin", "Sign in to finetuner")
    browser.find("#password").send_keys("wrong", Keys.ENTER)
    browser.says("is wrong")
    browser.find("#name").send_keys("nobody")
    browser.find("#password").send_keys("wrong", Keys.ENTER)
    browser.says("password is wrong")
    assert browser.find("#name").get_attribute("value") == "nobody", "the typed name is lost"
    browser.find("#name").clear()
    driver.get_log("browser")
    browser.open("/console/data")
    browser.find("#password").send_keys(server.token, Keys.ENTER)
    browser.wait("the requested page", lambda: driver.current_url.endswith("/console/data"))

    # A live run: its log grows, its curves are drawn and its state changes without
    # any input, and a text selection is kept.
    server.fit("live", 12)
    browser.open(f"{RUNS}/live")
    driver.execute_script("window.untouched = true")
    browser.wait("the run to start", lambda: "Running" in browser.find("#top").text)
    browser.wait("curves", lambda: browser.all("#curves polyline.line"))
    driver.execute_script("getSelection().selectAllChildren(document.querySelector('dl.facts dd'))")
    lines = lambda: browser.find("#lines").text.count("\n")
    before = lines()
    browser.wait("new lines", lambda: lines() > before)
    assert driver.execute_script("return window.untouched"), "the page was reloaded"
    chosen = driver.execute_script("return String(getSelection())")
    assert chosen.strip() == "clip-small", f"the selection became `{chosen}`"
    driver.execute_script("getSelection().empty()")
    browser.look("run-live", f"{RUNS}/live", "Cancel run")
    finished = lambda: "Finished" in browser.find("#top").text and "Download" in browser.text()
    browser.wait("the end", finished)
    log = browser.find("#lines").text
    assert log.count("Finished") == 1, "log lines are repeated"
    # Lists are live as well.
    browser.open(LIST)
    for epochs, name in ((2, "second"), (3, "third")):
        server.fit(name, epochs, learning_rate=2e-4)
    row = lambda name: [r for r in browser.all("tbody tr") if r.find_element(By.CSS_SELECTOR, "th").text == name]
    browser.wait("both runs in the list", lambda: all(
        row(name) and "Finished" in row(name)[0].text for name in ("second", "third")))
    browser.clean("live")

    browser.look("experiments", "/console/", "default")
    browser.look("runs", LIST, "live", "second", "Finished", "recall_at_20 before")
    browser.look("run", f"{RUNS}/live", "Metrics", "Examples", "polyline", "recall_at_8")
    driver.execute_script("document.querySelector('#examples').scrollIntoView()")
    pictures_are_there(browser)
    for tab in ("configuration", "checkpoints", "files"):
        browser.look(f"run-{tab}", f"{RUNS}/live?tab={tab}#details")

    # Values of curves, shown at the pointer and with the arrow keys.
    browser.open(f"{RUNS}/live")
    chart = browser.find(".chart")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    webdriver.ActionChains(driver).move_to_element(chart).perform()
    reading = lambda: browser.find(".reading").text
    browser.wait("a reading", lambda: "loss" in reading() and "step" in reading())
    browser.photograph("run-pointer")
    driver.execute_script("arguments[0].focus()", chart)
    chart.send_keys(Keys.HOME)
    browser.wait("the first step", lambda: reading().startswith("step 1\n"))
    chart.send_keys(Keys.ARROW_RIGHT)
    browser.wait("the next step", lambda: reading().startswith("step 2\n"))
    assert "step 2: loss" in chart.get_attribute("aria-valuetext")
    # Another view of the curves, without a reload.
    driver.execute_script("window.untouched = true")
    Select(browser.find("select[name=x]")).select_by_value("time")
    browser.wait("times", lambda: "time of training" in browser.find(".figures").text)
    Select(browser.find("select[name=scale]")).select_by_value("log")
    browser.wait("the scale", lambda: "logarithmic" in browser.find(".figures").text)
    Select(browser.find("select[name=smooth]")).select_by_value("0.9")
    browser.wait("the rough curve", lambda: browser.all("polyline.rough"))
    assert "x=time" in driver.current_url and driver.execute_script("return window.untouched")
    browser.look("run-view", driver.current_url[len(server.url):], "logarithmic")
    # Zooms into the axis by dragging and by keys, and back out.
    browser.open(f"{RUNS}/live")
    chart = browser.find(".chart")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    field = browser.find(".chart .field")
    width = lambda: (lambda low, high: high - low)(*map(float, browser.find(".chart").get_attribute("data-range").split()))
    whole = width()
    drag = webdriver.ActionChains(driver).move_to_element_with_offset(field, -100, 0).click_and_hold()
    drag.move_to_element_with_offset(field, 100, 0).release().perform()
    browser.wait("the part", lambda: width() < whole and "from=" in driver.current_url)
    part = width()
    browser.look("run-part", driver.current_url[len(server.url):], "Show all")
    chart = browser.find(".chart")
    chart.send_keys("+")
    browser.wait("a smaller part", lambda: width() < part)
    browser.find(".chart").send_keys("0")
    browser.wait("the whole axis", lambda: width() == whole and "from=" not in driver.current_url)

    # Filters, sorting and comparison.
    browser.open(LIST)
    browser.find("#q").send_keys("sec", Keys.ENTER)
    browser.wait("the filtered list", lambda: "1 run" == browser.find("caption").text)
    browser.open(LIST)
    browser.find("#filter").send_keys("learning_rate<1e-3, epochs<3", Keys.ENTER)
    browser.wait("the condition", lambda: [r.text for r in browser.all("tbody th")] == ["second"])
    browser.open(LIST)
    [head] = [a for a in browser.all("thead a") if a.text == "Epochs"]
    head.click()
    browser.wait("the order", lambda: browser.all("th[aria-sort=descending]") and
                 browser.find("tbody th a").text == "live")
    browser.look("runs-sorted", driver.current_url[len(server.url):])
    for box in browser.all("tbody input[type=checkbox]")[:3]:
        box.click()
    browser.wait("the number of selected runs", lambda: "3 selected" in browser.find(".bar").text)
    browser.find("button[formaction='/console/compare']").click()
    browser.wait("all three", lambda: "Compare 3 runs" in browser.text())
    # The run of the example has no values between steps.
    browser.look("compare", driver.current_url[len(server.url):], "Differences", "epochs", "Validation loss")
    assert browser.all("#examples"), "the search results of the models are missing"
    browser.look("compare-none", "/console/compare?experiment=default", "0 runs")

    # Tags and a note, the list of all runs by tag, other columns.
    browser.open(f"{RUNS}/second")
    browser.find("#edit-annotations summary").click()
    browser.find("#tags").send_keys("baseline, long queries")
    browser.find("#note").send_keys("Keep this one.\nIt is the best.")
    browser.find("#edit-annotations button").click()
    browser.says("Keep this one.\nIt is the best.")
    browser.look("run-tagged", f"{RUNS}/second", "baseline", "Change tags and note")
    browser.look("annotations", f"{RUNS}/second/annotations", "Tags and note of")
    browser.open("/console/runs")
    Select(browser.find("#tag")).select_by_visible_text("baseline")
    browser.find("form[role=search] button").click()
    browser.wait("the tagged run", lambda: [r.text for r in browser.all("tbody th")] == ["second"])
    browser.look("all-runs", "/console/runs?tag=baseline", "default", "long queries")
    browser.find("#columns summary").click()
    browser.find("#columns input[value=batch_size]").click()
    browser.find("#columns input[name=more]").send_keys("recall_at_8.change")
    browser.find("#columns button[value=set]").click()
    heads = lambda: [a.text for a in browser.all("thead a")]
    browser.wait("the columns", lambda: "Batch size" in heads() and "recall_at_8.change" in heads())
    browser.open("/console/runs")
    assert "Batch size" in heads(), "the columns are forgotten"
    browser.find("#columns summary").click()
    browser.find("#columns button[value=default]").click()
    browser.wait("the default columns", lambda: "Batch size" not in heads())
    # Selected runs are tagged after a confirmation.
    browser.find("#runs input[data-all]").click()
    browser.find("button[value=tag]").click()
    browser.wait("the question", lambda: browser.all("#add"))
    browser.find("#add").send_keys("seen", Keys.ENTER)
    browser.wait("the tags", lambda: len(browser.all("#runs .tag[href$=seen]")) == len(browser.all("#runs tbody tr")) > 2)
    for action in ("tag", "delete"):
        browser.find("#runs input[name=run]").click()
        browser.find(f"button[value={action}]").click()
        browser.wait("the question", lambda: "1 run" in browser.find("h1").text)
        # The page is the answer to a form, so it can't be opened again.
        browser.barriers(f"question, {action}")
        browser.photograph(f"question-{action}")
        browser.open("/console/runs")

    # A new run with the settings of another one.
    browser.open(f"{RUNS}/second")
    [button] = [a for a in browser.all(".actions a") if a.text == "Clone"]
    button.click()
    browser.wait("the form", lambda: browser.all("#name"))
    assert browser.find("#name").get_attribute("value") == "second-2"
    browser.look("clone", driver.current_url[len(server.url):], "Clone")
    browser.find("main form button").click()
    browser.wait("the new run", lambda: driver.current_url.endswith("/second-2") and finished())

    # The downloaded file contains what the page shows.
    browser.open(f"{RUNS}/live?tab=files")
    wanted = browser.find("#sha256").text
    link = browser.find("a.button").get_attribute("href")
    cookies = {c["name"]: c["value"] for c in driver.get_cookies()}
    found = hashlib.sha256(requests.get(link, cookies=cookies, timeout=60).content).hexdigest()
    assert wanted == found, "the artifact has another SHA-256"

    # A link to the run, for people without an account.
    browser.look("share", f"{RUNS}/live/share", "Create link")
    browser.find("form[action$='/share'] button").click()
    browser.wait("the link", lambda: browser.all("pre.secret"))
    shared = browser.find("pre.secret").text[len(server.url):]
    browser.look("shared", shared, "Shared by", "Curves")
    assert "Sign out" not in browser.text(), "the page of a link shows the account"
    pictures_are_there(browser)
    browser.open(f"{RUNS}/live/share")
    browser.find("form[action$='/revoke'] button").click()
    browser.wait("its removal", lambda: "There are no links" in browser.text())

    browser.look("data", "/console/data", "clip-fashion-train-data")
    browser.find("a[href^='/console/data/']").click()
    browser.open("/console/data?kind=documentArray")
    browser.find("tbody a").click()
    browser.wait("the documents", lambda: "/console/data/" in driver.current_url and browser.all("main img"))
    pictures_are_there(browser)
    browser.look("documents", driver.current_url[len(server.url):], "documents", "SHA-256")

    browser.look("tokens", "/console/tokens", "Create token")
    browser.find("#name").send_keys("laptop", Keys.ENTER)
    browser.wait("the token", lambda: browser.all("pre.secret"))
    token = browser.find("pre.secret").text
    who = requests.post(f"{server.url}/v2/rpc/user.identity.whoami",
                        headers={"Authorization": f"token {token}"}, timeout=60)
    assert who.status_code == 200
    browser.find("button[aria-label='Delete laptop']").click()
    browser.wait("its removal", lambda: "laptop" not in browser.text())
    browser.look("password", "/console/password", "New password")
    browser.look("account", "/console/account", "Webhooks")
    browser.look("mail", "/console/mail", "has not set up e-mail")
    browser.look("webhooks", "/console/webhooks", "Create webhook")
    browser.find("#url").send_keys("https://hook.invalid/a", Keys.ENTER)
    browser.wait("the secret", lambda: browser.all("pre.secret"))
    browser.find(".done a").click()
    browser.find("form[action$='/test'] button").click()
    browser.wait("the delivery", lambda: "webhook.test" in browser.text())
    hook = driver.current_url[len(server.url):]
    browser.look("webhook", hook, "Send again")
    browser.look("webhook-delete", f"{hook}/delete", "Delete this webhook?")
    browser.find("main form button").click()
    browser.wait("its removal", lambda: "There are no webhooks" in browser.text())

    # A shared project, from its creation to its deletion.
    browser.look("projects", "/console/projects", "Create project")
    browser.find("#name").send_keys("team", Keys.ENTER)
    browser.wait("the project", lambda: browser.find("h1").text == "Project team")
    browser.look("project", "/console/project", "Add member")
    browser.open("/console/")
    browser.says("There are no experiments yet")
    browser.look("project-delete", "/console/project/delete", "Delete this project?")
    browser.find("main form button").click()
    browser.wait("the list", lambda: "Create project" in browser.text() and "team" not in browser.find("tbody").text)

    # The pages of an admin.
    for name, path, wanted in (("admin", "", "Version"), ("admin-users", "/users", "Add user"),
                               ("admin-change", "/users/change?user=finetuner&action=sessions", "End all sessions"),
                               ("admin-storage", "/storage", "Stored"), ("admin-audit", "/audit", "run.start")):
        browser.look(name, f"/console/admin{path}", wanted)

    # Uploads a file with a problem, then the corrected one.
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "pairs.csv"
        table.write_text("anchor,positive\nred dress,a long red dress\nshoe,\n")
        browser.look("upload", "/console/data/new", "Upload data")
        browser.find("#name").send_keys("pairs")
        browser.find("#file").send_keys(str(table))
        browser.find("form[data-upload] [type=submit]").click()
        browser.says("1 problem in it")
        browser.photograph("upload-problems")
        driver.get_log("browser")
        table.write_text("anchor,positive\nred dress,a long red dress\nshoe,a shoe\n")
        browser.find("#file").send_keys(str(table))
        browser.find("form[data-upload] [type=submit]").click()
        browser.wait("the data", lambda: browser.find("h1").text == "pairs")
    browser.says("a long red dress")

    # Starts a run with the form.
    browser.find(".actions a[href*=start]").click()
    browser.says("The same run as code")
    browser.look("start", "/console/start?data=clip-fashion-train-data", "an image and its text")
    browser.find("#name").send_keys("from-page")
    browser.find("#epochs").clear()
    browser.find("#epochs").send_keys("1")
    browser.find("button[value=start]").click()
    browser.wait("the run", lambda: browser.find("h1").text == "from-page")
    browser.look("queue", "/console/queue", "Waiting")
    browser.open(f"{RUNS}/from-page")
    browser.says("Finished")

    # A program asks for authorization.
    granted = {}
    stream = requests.get(f"{server.url}/v2/rpc/user.identity.proxiedAuthorize", stream=True, timeout=120)
    events = (json.loads(line) for line in stream.iter_lines() if line.strip())
    page = next(events)["data"]["redirectTo"]
    def program():
        granted.update(next(events))
    waiting = threading.Thread(target=program)
    waiting.start()
    browser.look("consent", page[len(server.url):], "Authorize this program?")
    browser.find("button[value=yes]").click()
    browser.wait("the answer", lambda: "The program has access" in browser.text())
    waiting.join(30)
    assert granted["event"] == "authorize" and granted["data"]["code"]

    # The guides, including the one with the widest tables.
    browser.look("guides", "/docs/", "First run")
    browser.look("guide", "/docs/training.html", "Losses, miners")

    # With only the keyboard: the first tab stop skips to the content.
    browser.open("/console/")
    webdriver.ActionChains(driver).send_keys(Keys.TAB).perform()
    assert driver.switch_to.active_element.text == "Skip to content"
    webdriver.ActionChains(driver).send_keys(Keys.ENTER, Keys.TAB).perform()
    assert driver.switch_to.active_element.text == "Start a run"
    # The table is a separate tab stop, because it may scroll.
    webdriver.ActionChains(driver).send_keys(Keys.TAB, Keys.TAB).perform()
    assert driver.switch_to.active_element.text == "default"
    webdriver.ActionChains(driver).send_keys(Keys.ENTER).perform()
    browser.wait("the list", lambda: "default" in browser.find("h1").text)

    # Without JavaScript everything is readable.
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.open(f"{RUNS}/live")
    for text in ("Finished", "Metrics", "Curves", "Training [12/12]", "Apply"):
        browser.says(text, f"`{text}` without JavaScript")
    browser.find("nav.tabs a[href*=configuration]").click()
    browser.says("CLIPLoss")
    browser.open(f"{RUNS}/live/delete")
    browser.says("Delete this run?")
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    # Cancellation and deletion.
    server.fit("cancelled", 49)
    browser.open(f"{RUNS}/cancelled")
    browser.wait("the run to start", lambda: "Running" in browser.find("#top").text)
    browser.find(".actions a[href$=cancel]").click()
    browser.look("cancel", f"{RUNS}/cancelled/cancel", "Cancel this run?")
    browser.find("main form button").click()
    browser.wait("the end", lambda: "Cancelled" in browser.text() and "cancelled by" in browser.text())
    browser.look("run-cancelled", f"{RUNS}/cancelled", "Cancelled")
    browser.find(".actions a[href$=delete]").click()
    browser.wait("the question", lambda: "Delete this run?" in browser.text())
    browser.find("main form button").click()
    browser.wait("the list", lambda: driver.current_url.endswith(LIST) and "cancelled" not in browser.find("tbody").text)
    browser.look("error", "/console/nothing")

    # Size and load time of pages.
    session = requests.Session()
    for cookie in driver.get_cookies():
        session.cookies.set(cookie["name"], cookie["value"])
    for path in ("/console/", LIST, f"{RUNS}/live"):
        answer = session.get(server.url + path, timeout=60)
        print(f"{path}: {len(answer.content) / 1024:.0f} KiB in {answer.elapsed.total_seconds() * 1000:.0f} ms")
    driver.get_log("browser")

    # An open page says when the server is down.
    browser.open(LIST)
    server.process.terminate()
    browser.wait("the warning", lambda: "has not answered since" in browser.find("#connection").text)
    browser.photograph("down")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--axe", type=Path)
    parser.add_argument("--profile", choices=["debug", "release"], default="debug")
    options = parser.parse_args()
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    release = ["--release"] if options.profile == "release" else []
    # With the examples and features of the tests, to reuse their build.
    build = ["cargo", "build", "--quiet", *release, "--workspace", "--bins", "--examples",
             "--features", "finetuner-server/kubernetes"]
    subprocess.run(build, check=True, cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / options.profile
    with tempfile.TemporaryDirectory() as folder:
        server = Server(target / "finetuner-server", str(Path(folder) / "data"))
        browser = None
        try:
            # The example pushes the data and starts a first run.
            environment = {**os.environ, "JINA_FINETUNER_REGISTRY": server.url,
                           "JINA_HUBBLE_REGISTRY": server.url, "JINA_AUTH_TOKEN": server.token}
            subprocess.run(
                [target / "examples/text_to_image", "--epochs", "1", "--output", Path(folder) / "model"],
                env=environment, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            browser = Browser(server, options.shots, options.axe and options.axe.read_text())
            check(server, browser)
            print(f"looked at {', '.join(browser.seen)}: all good")
            heaviest, slowest = (max(of, key=of.get) for of in (browser.weights, browser.times))
            print(f"first page: {browser.weights['experiments'] / 1000:.0f} KB, "
                  f"{browser.times['experiments']:.0f} ms; "
                  f"heaviest: {heaviest}, {browser.weights[heaviest] / 1000:.0f} KB; "
                  f"slowest: {slowest}, {browser.times[slowest]:.0f} ms")
        finally:
            if browser:
                browser.driver.quit()
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
