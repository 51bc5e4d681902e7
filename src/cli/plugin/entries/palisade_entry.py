"""What `palisade plugin build` makes the component of: plugin.py, ready to be called."""

import ast
import functools
import importlib
import os
import random
import sys

import plugin

# Whatever is imported once the component runs is in it only if it was imported when it was built.
LAZY = ["_strptime", "calendar", "encodings.idna", "encodings.utf_8_sig", "locale"]


def late():
    """The modules that the project's own sources name anywhere, in functions too."""
    seen, names = set(), list(LAZY)
    home = os.path.dirname(os.path.abspath(plugin.__file__))
    while True:
        own = [m for m in list(sys.modules.values()) if getattr(m, "__file__", None) and m.__name__ not in seen
               and os.path.dirname(os.path.abspath(m.__file__)).startswith(home) and m.__file__.endswith(".py")]
        if not own and not names:
            return
        for module in own:
            seen.add(module.__name__)
            with open(module.__file__, encoding="utf-8") as source:
                tree = ast.parse(source.read())
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names += [name.name for name in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:
                pass
        names = []


late()


class Missing:
    """Says why a module cannot be found any more."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        raise ModuleNotFoundError(f"No module named {name!r} in the component: import it at the top of plugin.py, "
                                  "so that it is there when the component is built", name=name)


def fresh(method):
    @functools.wraps(method)
    def call(*given):
        if Missing not in sys.meta_path:
            sys.meta_path.append(Missing)
        # The state of `random` is that of the build, the same for every call.
        random.seed()
        return method(*given)

    return call


class Plugin(plugin.Plugin):
    pass


for name in ("describe", "authorize", "exchange", "refresh", "revoke", "identity"):
    setattr(Plugin, name, fresh(getattr(plugin.Plugin, name)))
