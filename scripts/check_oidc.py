#!/usr/bin/env python3
"""Signs in at a server through `oidc-provider`, a certified provider of OpenID Connect.

Needs Node.js 20 or newer and npm, which fetches the provider into a temporary folder, and
`cargo build -p finetuner-server`. Checks the first sign-in, the next one, a provider with
other keys, a user who is not admitted, and signing out.
"""

import html.parser
import http.cookiejar
import pathlib
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent
SERVER = ROOT / "target/debug/finetuner-server"
VERSION = "9"
SECRET = "a secret/with+signs"

PROVIDER = """
import Provider from 'oidc-provider';
import { exportJWK, generateKeyPair } from 'jose';

const [port, redirect, kid, secret] = process.argv.slice(2);
const { privateKey } = await generateKeyPair('RS256', { extractable: true });
const jwk = { ...(await exportJWK(privateKey)), kid, alg: 'RS256', use: 'sig' };
const issuer = `http://localhost:${port}`;
const provider = new Provider(issuer, {
  clients: [{
    client_id: 'ft', client_secret: secret, redirect_uris: [redirect],
    post_logout_redirect_uris: [],
  }],
  jwks: { keys: [jwk] },
  cookies: { keys: ['for tests'] },
  pkce: { required: () => true },
  claims: { email: ['email', 'email_verified'], profile: ['preferred_username'] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: id, preferred_username: id.split('@')[0], email: id, email_verified: true,
    }),
  }),
});
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
"""


class Forms(html.parser.HTMLParser):
    """Returns address and fields of the first form of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action, self.fields = None, {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = given.get("action", "")
        if tag == "input" and given.get("name"):
            self.fields[given["name"]] = given.get("value", "")


class Browser:
    """Follows redirects and keeps cookies, as a browser does."""

    def __init__(self) -> None:
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))

    def get(self, url: str, fields: dict | None = None) -> tuple[str, str]:
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        request = urllib.request.Request(url, data, {"Sec-Fetch-Site": "same-origin"})
        try:
            answer = self.opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.geturl(), answer.read().decode()

    def sign_in(self, server: str, user: str) -> tuple[str, str]:
        """Begins a sign-in at the server, and fills in the provider's forms."""
        url, page = self.get(f"{server}/console/oidc/start")
        while not url.startswith(server):
            form = Forms(page)
            assert form.action is not None, f"{url} has no form: {page}"
            fields = dict(form.fields)
            if "login" in fields:
                fields.update(login=user, password="any")
            url, page = self.get(urllib.parse.urljoin(url, form.action), fields)
        return url, page


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(arguments: list, ready: str, folder: pathlib.Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [str(argument) for argument in arguments], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if ready in line:
            return process
    sys.exit(f"{arguments[0]} ended before it was ready")


def expect(page: str, text: str) -> None:
    assert text in page, f"`{text}` is not on the page: {page}"


def main() -> None:
    processes = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        install = ["npm", "install", "--no-fund", "--no-audit", f"oidc-provider@{VERSION}"]
        subprocess.run(install, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (folder / "provider.mjs").write_text(PROVIDER)
        (folder / "secret").write_text(SECRET)
        port, own = free_port(), free_port()
        server, issuer = f"http://127.0.0.1:{own}", f"http://localhost:{port}"
        redirect = f"{server}/console/oidc/callback"
        (folder / "settings.toml").write_text(
            f'[server]\naddress = "127.0.0.1:{own}"\ndata = "{folder}/data"\n'
            f'public_url = "{server}"\n'
            f'[oidc]\nissuer = "{issuer}"\nclient_id = "ft"\nname = "Example"\n'
            f'client_secret_file = "{folder}/secret"\nallowed_domains = ["example.org"]\n'
        )

        def provider(kid: str) -> subprocess.Popen:
            arguments = ["node", "provider.mjs", port, redirect, kid, SECRET]
            processes.append(start(arguments, "ready", folder))
            return processes[-1]

        try:
            first = provider("first")
            serve = [SERVER, "serve", "--settings", folder / "settings.toml"]
            processes.append(start(serve, "Finetuner is ready", folder))
            browser = Browser()
            url, _ = browser.sign_in(server, "ada@example.org")
            assert url == f"{server}/console/", url
            expect(browser.get(f"{server}/console/account")[1], "Signed in as <b><bdi>ada<")
            print("A first sign-in creates an account.")

            browser = Browser()
            browser.sign_in(server, "ada@example.org")
            expect(browser.get(f"{server}/console/account")[1], "Signed in as <b><bdi>ada<")
            print("The next sign-in finds the account.")

            _, page = Browser().sign_in(server, "eve@evil.example")
            expect(page, "are allowed on this server")
            print("Others are refused.")

            first.terminate()
            first.wait()
            provider("second")
            browser = Browser()
            browser.sign_in(server, "ada@example.org")
            expect(browser.get(f"{server}/console/account")[1], "Signed in as <b><bdi>ada<")
            print("New keys of the provider are fetched.")

            _, page = browser.get(f"{server}/console/signout", {})
            expect(page, f"{issuer}/session/end?client_id=ft")
            url, _ = browser.get(f"{server}/console/account")
            assert "/console/signin" in url, url
            print("Signing out leads to the provider's page.")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


if __name__ == "__main__":
    main()
