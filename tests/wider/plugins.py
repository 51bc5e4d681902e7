"""Plugins as their authors write them: the examples, the whole way from an empty folder, and the guide.

What is installed for it (componentize-js, componentize-py) is in target/wider, put there by `make deps-wider`,
and so is what was built of the examples, by a hash of what it was built from.
"""

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import connections

# What npm and PyPI brought, as a plugin's folder has it.
INSTALLED = {"js": ("node_modules", "js/node_modules"), "python": (".venv", "python")}
SOURCE = {"rust": "src/lib.rs", "js": "plugin.js", "python": "plugin.py"}
# Some providers say `null` where others say nothing.
NULLS = """
about = "A provider that says null."
call = "refresh"
input.tokens = { access_token = "access-1", refresh_token = "refresh-1" }
settings.base_url = "https://acme.example"
result.tokens.access_token = "access-2"
[[requests]]
method = "POST"
url = "https://acme.example/token"
client_auth = "basic"
form = { grant_type = "refresh_token", refresh_token = "refresh-1" }
answer.headers.content-type = "application/json"
answer.body = '{"access_token":"access-2","expires_in":null,"refresh_token":null,"scope":null,"token_type":null}'
"""


def environment(run):
    """With what was compiled kept beside what was built."""
    path = f"{Path(run.PALISADE).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(run.ROOT / "target" / "wider" / "cache")}


def palisade(run, folder, *arguments, code=0):
    """Standard output, and how long it took."""
    begun = time.monotonic()
    done = subprocess.run(
        [run.PALISADE, *arguments], cwd=folder, capture_output=True, text=True, timeout=10 * run.PATIENCE, env=environment(run))
    said = f"palisade {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.returncode == code, said
    return done.stdout, time.monotonic() - begun


def equip(run, folder, language):
    """What would be installed into the folder, from where `make deps-wider` put it."""
    wider = run.ROOT / "target" / "wider"
    if language in INSTALLED:
        here, there = INSTALLED[language]
        assert (wider / there).exists(), "make deps-wider"
        (folder / here).symlink_to(wider / there)
    else:
        # The standard library is built along where the toolchain has none: once is enough.
        target = wider / "plugin-target"
        target.mkdir(exist_ok=True)
        (folder / "target").symlink_to(target)


def measured(said):
    """Time to compile and memory, from the last line of `palisade plugin test`."""
    found = re.search(r"(\d+) passed, 0 failed .* loaded in ([\d.]+s); memory up to ([\d.]+ \w+)", said)
    assert found, said
    return found.groups()


def examples(run, folder):
    """The example providers, built and played in the host, beside the one that is written in Rust."""
    rows = []
    for language in ("js", "python"):
        source = run.ROOT / "examples" / "plugins" / language
        place = folder / f"example-{language}"
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("node_modules", ".venv", "__pycache__", "*.wasm"))
        sum = hashlib.sha256()
        for file in sorted(file for file in place.rglob("*") if file.is_file() and "exchanges" not in file.parts):
            sum.update(str(file.relative_to(place)).encode() + b"\0" + file.read_bytes())
        kept = run.ROOT / "target" / "wider" / "plugins" / f"{language}-{sum.hexdigest()[:16]}.wasm"
        name = json.loads((place / "package.json").read_text())["name"] if language == "js" else "atlassian"
        built = "kept"
        if kept.is_file():
            shutil.copy(kept, place / f"{name}.wasm")
        else:
            equip(run, place, language)
            _, took = palisade(run, place, "plugin", "build")
            built = f"{took:.1f}s"
            kept.parent.mkdir(exist_ok=True)
            for old in kept.parent.glob(f"{language}-*.wasm"):
                old.unlink()
            shutil.copy(place / f"{name}.wasm", kept)
        said, _ = palisade(run, place, "plugin", "test")
        rows.append((language, name, built, (place / f"{name}.wasm").stat().st_size, *measured(said)))
    rust = run.ROOT / "plugins" / "dist" / "oauth2.wasm"
    said, _ = palisade(run, run.ROOT, "plugin", "test", str(rust), "--exchanges", "plugins/oauth2/exchanges")
    rows.append(("rust", "oauth2", "shipped", rust.stat().st_size, *measured(said)))
    print(f"        {'':8}{'component':12}{'built':>8}{'size':>10}{'exchanges':>11}{'loaded':>10}{'memory':>10}")
    for language, name, built, size, played, compiled, memory in rows:
        print(f"        {language:8}{name:12}{built:>8}{size / 2**20:>7.1f} MB{played:>11}{compiled:>10}{memory:>10}", flush=True)


def author(run, folder, language, provider):
    """From nothing to a component: `new`, one URL, `build`, `test`, `check`. Gives back where it is, and times."""
    home = folder / f"author-{language}"
    home.mkdir()
    times = {}
    _, times["new"] = palisade(run, home, "plugin", "new", "acme", "--lang", language)
    plugin = home / "acme"
    equip(run, plugin, language)
    source = plugin / SOURCE[language]
    text = source.read_text()
    assert text.count("https://acme.example") == 1, "one URL"
    source.write_text(text.replace("https://acme.example", provider.url))
    _, times["build"] = palisade(run, plugin, "plugin", "build")
    said, times["test"] = palisade(run, plugin, "plugin", "test")
    assert "1 passed, 0 failed" in said, said
    (plugin / "exchanges" / "nulls.toml").write_text(NULLS)
    said, _ = palisade(run, plugin, "plugin", "test")
    assert "2 passed, 0 failed" in said, said
    said, times["check"] = palisade(run, plugin, "plugin", "check", "acme.wasm")
    assert "calls      localhost" in said, said
    return plugin, times


def in_service(run, folder, language, provider, plugin):
    """The component beside config.toml: it refreshes, is called by hand, and what is recorded plays."""
    started = None
    place = folder / f"gateway-{language}"
    try:
        entry = provider.config().split("[providers.settings]")[0].replace('"builtin:oauth2"', '"acme.wasm"')
        place.mkdir()
        shutil.copy(plugin / "acme.wasm", place / "acme.wasm")
        started, api, login = connections.gateway(run, place, run.APP + entry, "keep_fresh = false")
        token = login()
        id = connections.imported(api, provider, token)
        before = provider.refreshes()
        api.good("POST", f"/auth/connections/{id}/refresh", token=token)
        held = api.good("GET", f"/auth/connections/{id}/token", token=token)["access_token"]
        assert provider.ask("/api/x", held)[0] == 200 and provider.refreshes() == before + 1, provider.seen()["asked"]

        tokens = provider.grant("ann")
        (place / "tokens.toml").write_text("[tokens]\n" + "".join(f'{name} = "{value}"\n' for name, value in tokens.items()))
        recorded = place / "exchanges" / "recorded.toml"
        done = subprocess.run(
            [run.PALISADE, "plugin", "call", "acme", "refresh", "--input", "tokens.toml", "--record", str(recorded)],
            cwd=place, capture_output=True, text=True, timeout=5 * run.PATIENCE, env=environment(run))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"POST {provider.url}/token → 200 in " in done.stderr, done.stderr
        assert "played back: as it was" in done.stdout, done.stdout
        written = recorded.read_text() + done.stdout + done.stderr
        secrets = [one for tokens in provider.seen()["issued"] for one in filter(None, tokens.values())]
        for secret in [*secrets, connections.CLIENT_SECRET]:
            assert secret not in written, "a secret was shown or recorded"
        said, _ = palisade(run, place, "plugin", "test", "acme.wasm")
        assert "ok      recorded" in said, said
    finally:
        if started:
            started.stop()


def story(run, folder):
    """As a new author would, in each language, against a real OAuth server."""
    provider = None
    try:
        provider = connections.Provider(run, folder / "plugin-acme", ["http://localhost/auth/connections/callback"], access_ttl=300)
        languages = ("rust", "js", "python")
        with concurrent.futures.ThreadPoolExecutor(2) as two:
            made = dict(zip(languages, two.map(lambda language: author(run, folder, language, provider), languages)))
        for language in languages:
            plugin, times = made[language]
            begun = time.monotonic()
            in_service(run, folder, language, provider, plugin)
            times["refresh at the provider, record, play"] = time.monotonic() - begun
            print(f"        {language:8}" + "  ".join(f"{step} {took:.1f}s" for step, took in times.items()), flush=True)
    finally:
        if provider:
            provider.process.stop()


# Put into `refresh`: what a call draws, and when. What is drawn twice, or at a time that stands still, was drawn when the
# component was built.
DRAWS = {
    "rust": ("    // What no setting can say", """    fn refresh(
        cx: &palisade_provider::Context<'_>,
        settings: &Settings,
        current: &palisade_provider::CurrentTokens,
    ) -> Result<palisade_provider::Tokens, Failure> {
        let drawn: Vec<String> = palisade_provider::random::bytes(8).iter().map(|byte| format!("{byte:02x}")).collect();
        cx.log(palisade_provider::Level::Warn, &format!("DRAWN {} AT {}", drawn.concat(), cx.now()));
        oauth2::refresh(cx, &Self::standard(settings, Step::Refresh)?, current)
    }

    // What no setting can say"""),
    "js": ("  refresh(connection, current) {", """  refresh(connection, current) {
    const begun = performance.now();
    while (performance.now() === begun);
    console.log(`DRAWN ${Math.random()} ${crypto.randomUUID()} ${crypto.getRandomValues(new Uint32Array(1))[0]} AT ${Date.now()}`);
    if (current.accessToken === "access-3") fetch("https://acme.example/");"""),
    "python": ("    def refresh(self, connection, current):", """    def refresh(self, connection, current):
        import random
        import secrets
        import time
        import uuid
        from datetime import datetime
        datetime.strptime("2026", "%Y")
        print("DRAWN", random.random(), uuid.uuid4(), secrets.token_hex(4), "AT", time.time())
        try:
            __import__("wsgi" + "ref.util")
        except ImportError as error:
            print("MISSING", error)"""),
}


def alive(run, folder):
    """In every language: no call draws what another has drawn, time goes on, and what is missing is named."""
    for language in ("rust", "js", "python"):
        home = folder / f"alive-{language}"
        home.mkdir()
        palisade(run, home, "plugin", "new", "acme", "--lang", language)
        plugin = home / "acme"
        equip(run, plugin, language)
        source = plugin / SOURCE[language]
        text, (before, after) = source.read_text(), DRAWS[language]
        assert text.count(before) == 1, language
        source.write_text(text.replace(before, after))
        palisade(run, plugin, "plugin", "build")
        exchange = (plugin / "exchanges" / "refresh.toml").read_text()
        for number, moment in enumerate((1767225600, 1767225601)):
            played = exchange.replace("\n[settings]", f"now = {moment}\n\n[settings]", 1)
            (plugin / "exchanges" / f"{number}.toml").write_text(played)
        (plugin / "exchanges" / "refresh.toml").unlink()
        if language == "js":
            asked = exchange.split("[[requests]]")[0].replace("access-1", "access-3")
            refused = '[result.failure]\nkind = "misconfigured"\nmessage = "use http.send"\n'
            (plugin / "exchanges" / "fetch.toml").write_text(asked + refused)
        done = subprocess.run(
            [run.PALISADE, "plugin", "test"], cwd=plugin, capture_output=True, text=True, timeout=10 * run.PATIENCE, env=environment(run))
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        drawn = [line.split() for line in re.findall(r"DRAWN (.*? AT [\d.]+)", done.stderr)][:2]
        assert len(drawn) == 2, said
        first, second = drawn
        for one, other in zip(first[:-2], second[:-2]):
            assert one != other, f"{language}: drawn twice: {one}"
        assert float(first[-1]) < float(second[-1]), f"{language}: time stands still: {drawn}"
        assert language != "python" or "import it at the top of plugin.py" in said, said
        print(f"        {language:8}" + "  ".join(first[:-2]) + " and " + "  ".join(second[:-2]), flush=True)


# What differs from one run, or one machine, to the next.
VARYING = [
    (r"\b[\d.]+ ?(ms|s)\b", "TIME"),
    (r"\b[\d.]+ (KiB|MiB|bytes)", "SIZE"),
    (r"\b[0-9a-f]{64}\b", "SUM"),
    (r"\b\d+ files\b", "FILES"),
    (r"processed-by .*", "processed-by TOOLS"),
]


def settled(text):
    for pattern, word in VARYING:
        text = re.sub(pattern, word, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def guide(run, folder):
    """Every command of docs/plugins.md prints what the guide says."""
    text = (run.ROOT / "docs" / "plugins.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.S | re.M)
    home = folder / "guide"
    home.mkdir()
    place, done = home, 0
    for part in [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.M)[1:]]:
        command, _, expected = part.partition("\n")
        if command.startswith("cd "):
            place = (place / command[3:]).resolve()
            if not (place / "target").exists():
                equip(run, place, "rust")
            continue
        ran = subprocess.run(
            ["bash", "--norc", "-c", command], cwd=place, env=environment(run), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "2>" not in command else subprocess.STDOUT, text=True, timeout=10 * run.PATIENCE)
        printed = ran.stdout if ran.returncode == 0 else ran.stdout + ran.stderr
        assert settled(printed) == settled(expected), (
            f"$ {command}\n--- the guide says\n{settled(expected)}\n--- it prints\n{settled(printed)}\n{ran.stderr}")
        done += 1
    assert done >= 6, f"the guide is too short: {done} commands"
