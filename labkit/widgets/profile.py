"""A switch for the profile: which base model the rest of this notebook uses, and why this machine suits it.

A front end over `labkit.profiles` and `labkit.doctor`'s recommendation; it has no logic of its own.
"""

from __future__ import annotations

from labkit import profiles
from labkit.widgets.shown import TEXT, bundle, shown


class ProfileSwitch:
    """Three buttons, one a profile; the one that is down is in force for this kernel.

    Args:
        reason: a sentence that is shown below, such as why this machine suits one of them.
    """

    def __init__(self, reason: str = ""):
        self.reason = reason

    def said(self) -> str:
        """What is in force, in a sentence."""
        now = profiles.current()
        return (f"{now.name}: {now.model}, from {now.origin}; {now.licence}; a LoRA training here takes "
                f"{now.steps} steps of {now.batch_size} rows. {self.reason}").strip()

    def widget(self):
        """The buttons and the sentence, as an ipywidgets box."""
        import ipywidgets as w

        buttons = w.ToggleButtons(options=list(profiles.PROFILES), value=profiles.current().name,
                                  description="profile")
        said = w.HTML(value=self._html())

        def chosen(change):
            profiles.use(change["new"])
            said.value = self._html()

        buttons.observe(chosen, "value")
        return w.VBox([buttons, said])

    def _html(self) -> str:
        return f'<div role="status" style="{TEXT};max-width:60em">{shown(self.said())}</div>'

    def _repr_mimebundle_(self, include=None, exclude=None):
        return bundle({"text/plain": self.said(), "text/html": self._html()}, self.widget, include, exclude)
