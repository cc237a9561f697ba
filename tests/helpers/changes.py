"""How results folders and reports are changed: each returns a function of the folder."""

import json

import numpy as np
from forgery import change_rows, change_run, read_rows, write_rows

from lightning_memaudit.report.document import read_document, seal

PATTERN = "random-0.5"
NEWEST = 2


def images(change, group="members", method="blind", audit=NEWEST):
    """Change the rows of one cell in images.jsonl."""

    def tamper(folder):
        def one(row):
            if row["audit"] == audit and row["group"] == group and method in (row["method"], None):
                return change(row)
            return None

        change_rows(folder.path / "images.jsonl", one)

    return tamper


def audits(change, group="members", method="blind", audit=NEWEST):
    """Change rows in audits.jsonl."""

    def tamper(folder):
        def one(row):
            if row["audit"] == audit and group in (row["group"], None) and method in (row["method"], None):
                return change(row)
            return None

        change_rows(folder.path / "audits.jsonl", one)

    return tamper


def both(*tamperings):
    def tamper(folder):
        for one in tamperings:
            one(folder)

    return tamper


def arrays(change):
    """Change the arrays of the newest audit."""

    def tamper(folder):
        saved = folder.newest_recoveries()
        changed = {key: array.copy() for key, array in saved.arrays.items()}
        change(changed)
        np.savez(saved.path, **changed)

    return tamper


def run(**content):
    return lambda folder: change_run(folder, lambda run: run.update(content))


def settings(**content):
    return lambda folder: change_run(folder, lambda run: run["settings"].update(content))


def described(group, **content):
    return lambda folder: change_run(folder, lambda run: run[group].update(content))


def update(**content):
    return lambda row: row.update(content)


def not_recovered(row):
    row.update(psnr=None, hidden_psnr=None, ssim=None, recovered=False)


def failed(row):
    row.update(psnr=None, hidden_psnr=None, ssim=None, mask_accuracy=None, score=None, certified=False)
    row.update(failed=True, diverged=False, recovered=False)


def odd(row):
    return row["position"] % 2 == 0


def kept(row):
    """Leaves out, of all cells, the images of odd positions, and closes the gaps."""
    if not odd(row):
        return False
    row["position"] //= 2
    return True


def doubled(shift):
    """Every row of the members twice, the second time at another position."""

    def tamper(folder):
        path, rows = folder.path / "images.jsonl", []
        for row in read_rows(path):
            rows.append(row)
            if row["audit"] == NEWEST and row["group"] == "members":
                rows.append(row | {"position": row["position"] + shift, "image": row["image"] + shift})
        write_rows(path, rows)

    return tamper


def rename(**names):
    """Rename keys among the arrays by replacing a part of them."""

    def change(arrays):
        for key in list(arrays):
            for old, new in names.items():
                if old in key.split("/"):
                    arrays["/".join(new if part == old else part for part in key.split("/"))] = arrays.pop(key)

    return change


def drop(*numbers):
    def tamper(folder):
        for name in ("audits.jsonl", "images.jsonl"):
            change_rows(folder.path / name, lambda row: row["audit"] not in numbers)
        for number in numbers:
            (folder.path / "recoveries" / f"audit-{number:04d}.npz").unlink(missing_ok=True)

    return tamper


def renumber(numbers):
    """Give audits other numbers; the order of the lines stays."""

    def tamper(folder):
        for name in ("audits.jsonl", "images.jsonl"):
            change_rows(folder.path / name, lambda row: row.update(audit=numbers.get(row["audit"], row["audit"])))

    return tamper


def reorder(folder):
    for name in ("audits.jsonl", "images.jsonl"):
        rows = read_rows(folder.path / name)
        write_rows(folder.path / name, sorted(rows, key=lambda row: [1, 0, 2][row["audit"]]))


def copy_audit(folder):
    """The newest audit twice, the second time as the next."""
    for name in ("audits.jsonl", "images.jsonl"):
        rows = read_rows(folder.path / name)
        again = [row | {"audit": 3} for row in rows if row["audit"] == NEWEST]
        write_rows(folder.path / name, [*rows, *again])


def exchange(first, second, key):
    names = {first: second, second: first}
    return lambda row: row.update({key: names.get(row[key], row[key])})


def everywhere(change, name="images.jsonl"):
    return lambda folder: change_rows(folder.path / name, lambda row: change(row) if row["audit"] == NEWEST else None)


def recoveries(action):
    return lambda folder: action(folder.newest_recoveries().path)


def set_arrays(**values):
    def change(arrays):
        for key, value in values.items():
            arrays[key.replace("__", "/").replace("PATTERN", PATTERN)][:] = value

    return change


def exact(group, method="blind"):
    def change(arrays):
        arrays[f"{group}/{PATTERN}/{method}/image"] = arrays[f"{group}/truth"]

    return change


def reversed_array(key):
    return lambda arrays: arrays.update({key: arrays[key][::-1].copy()})


def twice_in_audits(folder):
    rows = read_rows(folder.path / "audits.jsonl")
    extra = [row for row in rows if row["audit"] == NEWEST and row["method"] == "blind"]
    write_rows(folder.path / "audits.jsonl", [*rows, *extra])


def without_row(folder):
    for name in ("audits.jsonl", "images.jsonl"):
        change_rows(
            folder.path / name,
            lambda row: (row["audit"], row["group"], row["method"]) != (NEWEST, "controls", "known_mask"),
        )
    change_rows(folder.path / "audits.jsonl", lambda row: row.update(num_rows=5) if row["audit"] == NEWEST else None)


def document(change, again=True):
    def tamper(folder):
        content = read_document(folder)
        change(content)
        (folder.path / "report.json").write_text(json.dumps(seal(content) if again else content))

    return tamper


def file(name, text):
    return lambda folder: (folder.path / name).write_bytes(text)


def say(headline, version=None):
    def change(content):
        content["verdict"]["headline"] = headline
        content["tool"]["version"] = version or content["tool"]["version"]

    return document(change)


LOOKS_RECOVERED = update(psnr=41.0, hidden_psnr=38.0, recovered=True)
LOOKS_LOST = update(psnr=11.0, hidden_psnr=8.0, recovered=False)
