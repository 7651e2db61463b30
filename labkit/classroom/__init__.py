"""The teacher's desk: how a class stands, grading, a course for nbgrader, a folder for a room without a network.

Stands at the top, beside the command line. Nothing here runs a learner's code: only JSON and safetensors are read.
"""

from labkit.classroom.grading import Grade, grade, handin
from labkit.classroom.roster import Roster, read_roster

__all__ = ["Grade", "Roster", "grade", "handin", "read_roster"]
