"""Pages of one file each: markup, style and script from the files beside this one, everything that a run says escaped."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def part(name: str) -> str:
    """The text of a file of this folder."""
    return files("spo_rlhf.insight.page").joinpath(name).read_text(encoding="utf-8")


def fill(name: str, places: Mapping[str, str]) -> str:
    """The template of this name with its places {{so}} filled in one pass: what is filled in is not looked at again.

    Raises KeyError for a place that is not given.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda place: places[place[1]], part(name))


def text(value: object) -> str:
    """As the text of an element or of a quoted attribute."""
    return html.escape(str(value), quote=True)


def embedded(value: Any) -> str:
    """JSON for the inside of a <script type="application/json">: nothing in it can end the element."""
    made = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return made.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_hash(script: str) -> str:
    """What a Content-Security-Policy calls this script, so that no other one runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
