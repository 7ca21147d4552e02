"""A table of checks, with one row for each code block of the clients' documentation."""

import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FASHION = ROOT / "datasets/emoji-clip"

_rows = []


def row(page, block, always=False):
    """Adds a function as a row. Rows run in the order of the file, and pass if they
    do not raise. The return value is shown next to the row. `always`: the other
    rows need it."""
    def add(check):
        _rows.append((page, block, check, always))
        return check
    return add


def refused(call, *words):
    """Expects an error that contains these words, and returns its message."""
    try:
        call()
    except Exception as error:
        text = str(error)
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in: {text}"
        assert "::" not in text, f"a Python user knows no such function: {text}"
        return f"refused: {text[:160]}"
    raise AssertionError(f"it was not refused; the message should have {words}")


def run_all(only=None):
    """Runs the rows and prints the table. Returns the number of failed rows."""
    bad = 0
    for page, block, check, always in _rows:
        name = f"{page} | {block}"
        if only and only not in name and not always:
            continue
        try:
            said = check() or ""
            print(f"| good | {name} | {said} |", flush=True)
        except Exception as error:
            bad += 1
            print(f"| BAD | {name} | {type(error).__name__}: {error} |", flush=True)
            traceback.print_exc()
    return bad
