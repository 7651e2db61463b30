"""Two steps for nbgrader: answers left out by the course's own rule, and copied cells forgotten.

nbgrader calls them by the names that `labkit.classroom.nbgrader` writes into its configuration.
"""

from __future__ import annotations

from nbgrader.preprocessors import NbGraderPreprocessor

from labkit.blanks import learner_source


class LeaveAnswersOut(NbGraderPreprocessor):
    """In place of nbgrader's ClearSolutions, which would leave names undefined that later cells read."""

    def preprocess_cell(self, cell, resources, cell_index):
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = learner_source(cell.source, resources.get("metadata", {}).get("name", ""))
        return cell, resources


class ForgetCopies(NbGraderPreprocessor):
    """After DeduplicateIds, which empties the marks of a copied cell: without any, add_missing_cells passes it by.

    nbgrader 0.9.6 looks for a grade_id in every cell that has marks, and stops at an empty one.
    """

    def preprocess_cell(self, cell, resources, cell_index):
        if "nbgrader" in cell.metadata and "grade_id" not in cell.metadata.nbgrader:
            del cell.metadata["nbgrader"]
        return cell, resources
