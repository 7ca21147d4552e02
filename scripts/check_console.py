"""The console in a real browser: signs in, looks at every page, follows a live
run to its end, compares, downloads, lets a program in. Light and dark, wide and
as narrow as a phone, with the keyboard alone and without JavaScript.

    apt-get install chromium chromium-driver
    pip install selenium requests
    python scripts/check_console.py [--shots FOLDER] [--profile release]

Ends with an error where a page is not as it should be, where it is wider than a
phone, or where the browser complains of anything. `--shots` keeps a picture of
each page.
"""

import argparse
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
WIDE, NARROW = (1280, 900), (375, 800)
# How long anything may take that is waited for.
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

    def fit(self, name, epochs):
        config = {
            "model": {"name": "clip-small"},
            "data": {"train_data": "clip-fashion-train-data", "eval_data": "clip-fashion-eval-data"},
            "callbacks": [{"name": "EvaluationCallback", "options": {
                "query_data": "clip-fashion-eval-data", "gather_examples": True, "limit": 8}}],
            "hyper_parameters": {"loss": "CLIPLoss", "epochs": epochs, "batch_size": 8,
                                 "learning_rate": 1e-4},
        }
        body = {"name": name, "config": config, "device": "cpu", "cpus": 1, "gpus": 1}
        self.call("POST", "/api/v1/experiments/default/runs", json=body)


class Browser:
    def __init__(self, server, shots):
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.server, self.shots = server, shots
        self.seen = []
        self.size(WIDE)

    def size(self, size):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == NARROW})

    def dark(self, dark):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def open(self, path):
        self.driver.get(self.server.url + path)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, what, condition):
        # A page may be loaded anew under the condition's hands: after a click, or a live one
        # when its run's state changes.
        WebDriverWait(self.driver, PATIENCE, 0.2, ignored_exceptions=[WebDriverException]).until(
            lambda _: condition() or False, what)

    def text(self):
        return self.find("main").text

    def says(self, text, what=None):
        """Waits until a page says something."""
        self.wait(what or f"`{text}`", lambda: text in self.text())

    def clean(self, page):
        """Whether the browser complained."""
        complaints = [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        assert not complaints, f"{page}: {complaints}"

    def look(self, name, path, *wanted):
        """A page in all its looks."""
        self.open(path)
        for text in wanted:
            assert text in self.driver.page_source, f"{name}: `{text}` is not there"
        for size, how in ((WIDE, "wide"), (NARROW, "narrow")):
            self.size(size)
            for dark in (False, True):
                self.dark(dark)
                if self.shots:
                    shade = "dark" if dark else "light"
                    self.driver.save_screenshot(str(self.shots / f"{name}-{how}-{shade}.png"))
            width = self.driver.execute_script("return document.scrollingElement.scrollWidth")
            assert width <= size[0], f"{name} is {width} pixels wide on a screen of {size[0]}"
            assert self.contrast() >= 4.5, f"{name}: the contrast is {self.contrast()}"
        self.size(WIDE)
        self.dark(False)
        assert len(self.all("h1")) == 1, f"{name}: one title is wanted"
        for image in self.all("img"):
            assert image.get_attribute("alt"), f"{name}: a picture has no words"
        for field in self.all("input:not([type=hidden]), select"):
            label = field.get_attribute("aria-label") or self.all(f"label[for='{field.get_attribute('id')}']")
            assert label, f"{name}: a field has no label"
        self.clean(name)
        self.seen.append(name)

    def contrast(self):
        """Of the text and what is behind it."""
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
    # Signing in: with the link, and with a token; a wrong one is told.
    driver.get(server.link)
    browser.says("Experiments")
    browser.find("header form button").click()
    browser.wait("being signed out", lambda: browser.all("#password"))
    browser.look("sign-in", "/console/signin", "Sign in to finetuner")
    browser.find("#password").send_keys("wrong", Keys.ENTER)
    browser.says("is wrong")
    driver.get_log("browser")
    browser.open("/console/data")
    browser.find("#password").send_keys(server.token, Keys.ENTER)
    browser.wait("the page that was wanted", lambda: driver.current_url.endswith("/console/data"))

    # A live run: its log grows, its curves are drawn and its status changes
    # while nobody touches the page.
    server.fit("live", 12)
    browser.open("/console/experiments/default/runs/live")
    driver.execute_script("window.untouched = true")
    browser.wait("the run to start", lambda: "STARTED" in browser.find("#state").text)
    browser.wait("curves", lambda: browser.all("#curves ~ figure polyline.line"))
    lines = lambda: browser.find("#lines").text.count("\n")
    before = lines()
    browser.wait("new lines", lambda: lines() > before)
    assert driver.execute_script("return window.untouched"), "the page was loaded anew"
    browser.look("run-live", "/console/experiments/default/runs/live", "Cancel the run")
    browser.wait("the end", lambda: "FINISHED" in browser.find("#state").text and "Download" in browser.text())
    log = browser.find("#lines").text
    assert log.count("Finished") == 1, "lines came twice"
    server.fit("second", 2)
    browser.open("/console/experiments/default/runs/second")
    browser.wait("the end", lambda: "FINISHED" in browser.find("#state").text and "Download" in browser.text())
    browser.clean("live")

    browser.look("experiments", "/console/", "default")
    browser.look("runs", "/console/experiments/default", "live", "second", "FINISHED", "recall_at_k before")
    browser.look("run", "/console/experiments/default/runs/live", "Metrics", "Examples", "SHA-256", "polyline")
    browser.driver.execute_script("document.querySelector('#examples').scrollIntoView()")
    pictures_are_there(browser)
    if browser.shots:
        driver.save_screenshot(str(browser.shots / "run-examples.png"))
        driver.execute_script("document.querySelector('#curves').scrollIntoView()")
        driver.save_screenshot(str(browser.shots / "run-curves.png"))
    browser.open("/console/experiments/default")
    browser.find("#q").send_keys("sec", Keys.ENTER)
    browser.wait("the filtered list", lambda: "1 runs" in browser.text())
    browser.open("/console/experiments/default")
    Select(browser.find("#order")).select_by_value("oldest")
    browser.find("form[role=search] button").click()
    browser.wait("the order", lambda: browser.find("tbody th a").text != "second")
    for box in browser.all("tbody input[type=checkbox]")[:2]:
        box.click()
    browser.find("form[action='/console/compare'] button").click()
    browser.wait("both", lambda: len(browser.all("polyline.line")) == 2)
    browser.look("compare", driver.current_url[len(server.url):], "side by side", "hyper_parameters.epochs")

    # What is downloaded is what the page says.
    browser.open("/console/experiments/default/runs/live")
    wanted = browser.find("code.long").text
    link = browser.find("a.button").get_attribute("href")
    cookies = {c["name"]: c["value"] for c in driver.get_cookies()}
    found = hashlib.sha256(requests.get(link, cookies=cookies, timeout=60).content).hexdigest()
    assert wanted == found, "the artifact has another SHA-256"

    browser.look("data", "/console/data", "clip-fashion-train-data")
    browser.find("a[href^='/console/data/']").click()
    browser.open("/console/data?kind=documentArray")
    browser.find("tbody a").click()
    browser.wait("the documents", lambda: "/console/data/" in driver.current_url and browser.all("main img"))
    pictures_are_there(browser)
    browser.look("documents", driver.current_url[len(server.url):], "documents", "SHA-256")

    browser.look("tokens", "/console/tokens", "Make a token")
    browser.find("#name").send_keys("laptop", Keys.ENTER)
    browser.wait("the token", lambda: browser.all("pre.secret"))
    token = browser.find("pre.secret").text
    who = requests.post(f"{server.url}/v2/rpc/user.identity.whoami",
                        headers={"Authorization": f"token {token}"}, timeout=60)
    assert who.status_code == 200
    browser.find("button[aria-label='Delete laptop']").click()
    browser.wait("it to go", lambda: "laptop" not in browser.text())
    browser.look("password", "/console/password", "New password")

    # A program asks to be let in.
    granted = {}
    stream = requests.get(f"{server.url}/v2/rpc/user.identity.proxiedAuthorize", stream=True, timeout=120)
    events = (json.loads(line) for line in stream.iter_lines() if line.strip())
    page = next(events)["data"]["redirectTo"]
    def program():
        granted.update(next(events))
    waiting = threading.Thread(target=program)
    waiting.start()
    browser.look("consent", page[len(server.url):], "Let a program in?")
    browser.find("button[value=yes]").click()
    browser.wait("the answer", lambda: "The program goes on" in browser.text())
    waiting.join(30)
    assert granted["event"] == "authorize" and granted["data"]["code"]

    # The guides, among them the one with the widest tables.
    browser.look("guides", "/docs/", "First run")
    browser.look("guide", "/docs/training.html", "Losses, miners")

    # With the keyboard alone: the first stop leads to the content.
    browser.open("/console/")
    webdriver.ActionChains(driver).send_keys(Keys.TAB).perform()
    assert driver.switch_to.active_element.text == "To the content"
    webdriver.ActionChains(driver).send_keys(Keys.ENTER, Keys.TAB).perform()
    assert driver.switch_to.active_element.text == "default"
    webdriver.ActionChains(driver).send_keys(Keys.ENTER).perform()
    browser.wait("the list", lambda: "default" in browser.find("h1").text)

    # Without JavaScript everything is there to read.
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.open("/console/experiments/default/runs/live")
    for text in ("FINISHED", "Metrics", "Curves", "Training [12/12]"):
        browser.says(text, f"`{text}` without JavaScript")
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

    # Cancelling and deleting.
    server.fit("cancelled", 49)
    browser.open("/console/experiments/default/runs/cancelled")
    browser.wait("the button", lambda: browser.find("form[action$=cancel] button").click() or True)
    browser.wait("the end", lambda: "FAILED" in browser.text() and "cancelled by" in browser.text())
    browser.look("run-failed", "/console/experiments/default/runs/cancelled", "FAILED")
    browser.find("form[action$=delete] button").click()
    driver.switch_to.alert.accept()
    browser.wait("the list", lambda: "cancelled" not in browser.text())
    browser.clean("the end")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--profile", choices=["debug", "release"], default="debug")
    options = parser.parse_args()
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    release = ["--release"] if options.profile == "release" else []
    # With the examples and features of the tests, so that what they have built is used.
    build = ["cargo", "build", "--quiet", *release, "--workspace", "--bins", "--examples",
             "--features", "finetuner-server/kubernetes"]
    subprocess.run(build, check=True, cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / options.profile
    with tempfile.TemporaryDirectory() as folder:
        server = Server(target / "finetuner-server", str(Path(folder) / "data"))
        browser = None
        try:
            # The example brings the data, and a first run.
            environment = {**os.environ, "JINA_FINETUNER_REGISTRY": server.url,
                           "JINA_HUBBLE_REGISTRY": server.url, "JINA_AUTH_TOKEN": server.token}
            subprocess.run(
                [target / "examples/text_to_image", "--epochs", "1", "--output", Path(folder) / "model"],
                env=environment, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            browser = Browser(server, options.shots)
            check(server, browser)
            print(f"looked at {', '.join(browser.seen)}: all good")
        finally:
            if browser:
                browser.driver.quit()
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
