"""Simulates a user in the browser when a program wants to log in: signs in at the
console and agrees. `webbrowser` starts this script because `BROWSER` names it."""

import os
import sys
import time

import requests


def main(page):
    base = page.split("/console/")[0]
    browser = requests.Session()
    browser.headers["Origin"] = base
    browser.post(f"{base}/console/signin", data={"password": os.environ["USER_TOKEN"]})
    assert "Authorize this program" in browser.get(page).text, "the page asks"
    agreed = browser.post(f"{base}/console/authorize",
                          data={"request": page.split("request=")[1], "answer": "yes"})
    if 'action="http://localhost' not in agreed.text:
        return
    # The earlier client waits at its own address, a moment later.
    value = lambda name: agreed.text.split(f'name="{name}" value="')[1].split('"')[0]
    action = agreed.text.split('action="http://localhost')[1].split('"')[0]
    for _ in range(100):
        try:
            requests.post(f"http://localhost{action}", data={"code": value("code"), "state": value("state")})
            return
        except requests.ConnectionError:
            time.sleep(0.1)


main(sys.argv[1])
