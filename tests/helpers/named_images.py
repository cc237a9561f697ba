"""Gives the images of a run folder names, as a run records them: in images.jsonl and among the saved arrays."""

import json

import numpy as np
from forgery import resign

ODD_NAMES = (
    "cats/0017.jpg",
    "<b>bold</b><script>alert(1)</script>.png",
    "$a_{$ costs $5 \\$.png",
    "[red]markup[/red] [/] {{ 7 * 7 }}.png",
    "\x1b[31mred\x1b[2J\x07\r\n.png",
    "a/very/long/path/" + "deep/" * 60 + "to/0042.jpg",
    "猫/🐈/café-ñ.jpg",
    "\u202egpj.exe",
    "'quoted' \"twice\" & more.png",
    "half a character \udcff.jpg",
    "_underscore_%_#_^.png",
    " ",
)


def name_images(folder, names=ODD_NAMES):
    """Name the images of each group by their positions; past the end of ``names`` they have none but their index."""

    def name(group, position):
        return (names[position] if group == "members" else f"other {names[position]}") if position < len(names) else ""

    path = folder.path / "images.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["name"] = name(row["group"], row["position"]) or str(row["image"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved = folder.newest_recoveries()
    for group in ("members", "controls"):
        if f"{group}/indices" in saved.arrays:
            indices = saved.arrays[f"{group}/indices"]
            saved.arrays[f"{group}/names"] = np.array([name(group, i) or str(row) for i, row in enumerate(indices)])
    np.savez(saved.path, **saved.arrays)
    resign(folder)
    return folder
