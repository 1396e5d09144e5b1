"""What one line says of an error."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
