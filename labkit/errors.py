"""LabError, the one exception that a learner meets: what was found, where, what was expected, what to do.

Every module raises it; the command line and the notebooks print its text and nothing else.
"""

from __future__ import annotations

import copyreg


class LabError(Exception):
    """Something that the user can mend, said in one or two plain sentences.

    Args:
        what: what was found, as a clause without a full stop: "row 3 has no label".
        where: file and line, row and column, or option; comes first in the text.
        expected: what would have been right, as a noun phrase.
        todo: the next thing to do, as a sentence in the imperative.

    >>> print(LabError("row has no label", where="tickets.csv, line 4", todo="Fill it in"))
    tickets.csv, line 4: row has no label. Fill it in.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", todo: str = ""):
        self.what, self.where, self.expected, self.todo = what, where, expected, todo
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected:
            text += f"; expected {self.expected}"
        text = text.rstrip(".") + "."
        if self.todo:
            text += " " + self.todo.rstrip(".") + "."
        return text

    def __reduce__(self) -> tuple:
        """How it goes from one process to another: as it is, whatever a subclass asks for when it is made."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the sentence alone."""
        return [str(self)]
