"""A project from a file to a served model: nine steps, each leaving files behind, and a check that looks at those.

`Project` has the steps, one method each, as the course would take them; `examine` says what is wrong with what lies on
disk, by scoring it again.
"""

from labkit.capstone.project import STEPS, Project
from labkit.capstone.rubric import examine, rubric

__all__ = ["STEPS", "Project", "examine", "rubric"]
