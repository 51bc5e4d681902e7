"""A person in front of a real browser, and what every page must be."""

import base64
import os
from pathlib import Path

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver §12
TAB, ENTER, SPACE = "\ue004", "\ue007", " "


class Reader:
    """A person in front of the browser."""

    def __init__(self, browser, until):
        self.browser, self.until = browser, until

    def opens(self, url):
        # Another document first: a change of the fragment alone would load nothing.
        self.browser.ask("/url", {"url": "about:blank"})
        self.browser.ask("/url", {"url": url})

    def js(self, script, *arguments):
        return self.browser.ask("/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command, **parameters):
        return self.browser.ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def sees(self, text):
        self.until(f"the page shows {text!r}", lambda: text in self.js("return document.body.innerText"), 20)

    def does_not_see(self, text):
        shown = self.js("return document.body.innerText")
        assert text not in shown, shown

    def part(self, selector):
        return self.browser.ask("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def presses(self, selector):
        self.browser.ask(f"/element/{self.part(selector)}/click", {})

    def types(self, selector, text):
        self.browser.ask(f"/element/{self.part(selector)}/value", {"text": text})

    def keys(self, *keys):
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.browser.ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})


def look(reader, name):
    """Keeps a picture of the page in the folder SCREENSHOTS, and holds it against what every page must be."""
    assert reader.js(CONTRAST) == [], (name, reader.js(CONTRAST))
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        picture = reader.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(picture))


# Texts with a contrast to their background below 4.5 (WCAG 2.2, 1.4.3).
CONTRAST = """
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const color = rgb(getComputedStyle(node).backgroundColor);
            if (color.length === 3 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll("h1, p, label, button, input, a")]
        .filter(node => node.offsetParent)
        .map(node => {
            const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))];
            return [node.id || node.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        })
        .filter(([, ratio]) => ratio < 4.5);
"""
