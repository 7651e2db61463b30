"""nbgrader's step that leaves the answers out, by the rule by which the course's own learner's copies are made."""

from __future__ import annotations

from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.blanks import learner_source


class LeaveAnswersOut(NbGraderPreprocessor):
    """In place of nbgrader's ClearSolutions, which would leave names undefined that later cells read."""

    def preprocess_cell(self, cell, resources, cell_index):
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = learner_source(cell.source, resources.get("metadata", {}).get("name", ""))
        return cell, resources
