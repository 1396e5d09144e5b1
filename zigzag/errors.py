"""What one line says of an error."""

import re

_REFUSED = "Weights only load failed"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it says nothing.

    Of torch's refusal to unpickle a file: what it found there, without the advice to run the file's code.
    """
    text = str(error).strip() or type(error).__name__
    if not text.startswith(_REFUSED):
        return text.splitlines()[0]
    found = _GLOBAL.search(text)
    return "it holds other than tensors and plain values" + (f": {found[1]}" if found else "")
