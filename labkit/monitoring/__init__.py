"""What a training shows while it runs, and what its curves say afterwards; it looks on and changes nothing.

Beside the tripwires and below `training`, which puts a meter into every run.
"""

from labkit.monitoring.board import tensorboard
from labkit.monitoring.budget import Budget, memory_told
from labkit.monitoring.diagnosis import Diagnosis, diagnose
from labkit.monitoring.lines import in_notebook, notebook_line, passing_line, say_of_the_rest, terminal_line
from labkit.monitoring.live import live, still
from labkit.monitoring.meter import Meter, meter_callback

__all__ = ["Budget", "Diagnosis", "Meter", "diagnose", "in_notebook", "live", "memory_told", "meter_callback",
           "notebook_line", "passing_line", "say_of_the_rest", "still", "tensorboard", "terminal_line"]
