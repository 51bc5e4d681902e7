"""Every page with sample data, in a real browser: in every language, light and dark, narrow and wide.

axe-core (Deque) finds nothing in any of them, nothing is wider than the window, and what is put into a page does not
run. With the variable SCREENSHOTS, a picture of each is kept in that folder.
"""

import base64
import os
import re
import urllib.request
from pathlib import Path

from pages import CONTRAST, Reader

SIZES = ((320, 640), (1280, 900))
AXE = """
    const done = arguments[arguments.length - 1];
    const options = { rules: { "target-size": { enabled: true } }, resultTypes: ["violations"] };
    axe.run(document, options).then(
        found => done(found.violations.map(({ id, nodes }) => [id, nodes.map(node => [node.html, node.failureSummary])])),
        error => done([[String(error), []]]));
"""
# Whatever a page might be made to run by what is put into it.
PUT = """
    const script = document.createElement("script");
    script.textContent = "document.title = 'ran'";
    document.body.append(script);
    document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"document.title = 'ran'\\">");
    document.body.setAttribute("onclick", "document.title = 'ran'");
    document.body.click();
"""


WHOLE = os.environ.get("LOOKS") == "whole"


def work(browser, until, url, axe, chosen=""):
    """`url` is that of `palisade pages preview`, `axe` the file of axe-core; pages whose path holds `chosen`."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as listed:
        paths = [path for path in re.findall(r'href="(/[^"]+)"', listed.read().decode()) if chosen in path]
    assert paths, url
    reader, source, faults = Reader(browser, until), Path(axe).read_text(), []
    for path in paths:
        reader.opens(url + path.removeprefix("/"))
        reader.js(source)
        for scheme in ("light", "dark"):
            reader.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for width, height in SIZES:
                # All languages have one style: outside of `make soak` those beside English are looked at narrow and light,
                # and wide and dark.
                if not WHOLE and not path.endswith("/en") and (width < 600) != (scheme == "light"):
                    continue
                reader.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
                at = f"{path} {scheme} {width}"
                found = browser.ask("/execute/async", {"script": AXE, "args": []})
                faults += [f"{at}: {rule}: {nodes}" for rule, nodes in found]
                low = reader.js(CONTRAST)
                if low:
                    faults.append(f"{at}: contrast of {low}")
                wide = reader.js("return document.documentElement.scrollWidth")
                if wide > width:
                    faults.append(f"{at}: {wide} pixels wide")
                picture(reader, f"{path[1:].replace('/', '.')}.{scheme}.{width}")
        reader.js(PUT)
        if browser.title() == "ran":
            faults.append(f"{path}: what was put into it ran")
    reader.cdp("Emulation.clearDeviceMetricsOverride")
    assert not faults, "\n".join(faults)


def picture(reader, name):
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        taken = reader.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(taken))


def script(browser, until, url):
    """The script file: a link's token goes into its field and out of the address, and a fragment stays with the sign-in."""
    reader = Reader(browser, until)
    value, at = "return document.querySelector('[data-token]').value", "return location.href"
    for page in ("verify/link/en", "reset/link/de", "undo/least/fr", "object/least/es"):
        reader.opens(f"{url}{page}#token=abc-DEF_123")
        until("the token is in its field", lambda: reader.js(value) == "abc-DEF_123", 20)
        assert reader.js(at) == url + page and "abc-DEF" not in reader.js("return document.documentElement.outerHTML"), page
        assert not reader.js("return document.querySelector('[data-token]').offsetParent"), f"{page}: the field is still shown"
        reader.js("location.hash = 'token=second'")
        until("the token of the second link is there", lambda: reader.js(value) == "second", 20)
        for fragment in ("", "#token=", "#other=x"):
            reader.opens(url + page + fragment)
            assert reader.js(value) == "" and reader.js("return !!document.querySelector('[data-token]').offsetParent"), page

    action = "return document.querySelector('form').action"
    for fragment in ("#/report/7", "#a?b=<c>&token=x"):
        reader.opens(url + "sign-in/fresh/en" + fragment)
        until("the form keeps the fragment", lambda: "#" in reader.js(action), 20)
        assert reader.js(action) == reader.js(at) and reader.js("return new URL(arguments[0]).origin", reader.js(action)) == url.rstrip("/")
    reader.opens(url + "sign-in/fresh/en")
    assert "#" not in reader.js(action)
    reader.cdp("Emulation.setScriptExecutionDisabled", value=True)
    reader.opens(f"{url}verify/link/en#token=abc")
    assert browser.ask("/element", {"using": "css selector", "value": "[data-token]"}), "no field without script"
    reader.cdp("Emulation.setScriptExecutionDisabled", value=False)
