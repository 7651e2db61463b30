"""Will it fit? Model, method, batch and length, and what a training of them takes on five GPUs.

A front end over `labkit.memory`, with no logic of its own; without ipywidgets it leaves its picture and a sentence.
"""

from __future__ import annotations

import base64
import html

from labkit import plots
from labkit.errors import LabError
from labkit.memory import GPUS, KNOWN, METHODS, SPARE, Fit, fits
from labkit.tables import Table
from labkit.widgets.shown import bundle, shown

HUES = {"weights": "blue", "gradients": "orange", "optimizer": "purple", "activations": "green", "logits": "grey"}
LIMIT = 150  # per cent of a GPU that the picture shows; what is longer is cut, and its figure stands beside it


class WillItFit:
    """Choose a training; see it against each GPU's memory, part by part.

    Args:
        model: one of `labkit.memory.KNOWN`.
        method: "full", "lora" or "qlora". batch: rows a step. length: tokens a row. counted: those of them that the
            loss counts, an answer's.
        gpu: the one that the sentence speaks of.
        dtype: of the weights that are not quantised. checkpointing: compute blocks again, keep their inputs only.
    """

    def __init__(self, model: str = "Qwen/Qwen2.5-1.5B-Instruct", method: str = "qlora", batch: int = 8,
                 length: int = 512, counted: int = 64, gpu: str = "T4", dtype: str = "bfloat16",
                 checkpointing: bool = False):
        if gpu not in GPUS:
            raise LabError(f"no figures of a {gpu!r}", where="gpu", expected=", ".join(GPUS))
        self.gpu = gpu
        self.settings = {"model": model, "method": method, "batch": batch, "length": length, "counted": counted,
                         "dtype": dtype, "checkpointing": checkpointing}
        self.found = fits(**self.settings)

    def choose(self, gpu: str | None = None, **settings) -> list[Fit]:
        """Change some of the settings; returns what comes of them on each GPU."""
        new = self.settings | settings
        new["counted"] = min(new["counted"], new["length"])
        self.found = fits(**new)
        self.settings, self.gpu = new, gpu or self.gpu
        return self.found

    def said(self) -> str:
        """What the picture shows, in words: the chosen GPU first."""
        chosen = next(fit for fit in self.found if fit.gpu == self.gpu)
        largest = max(chosen.needs.live, key=chosen.needs.live.get)
        others = "; ".join(str(fit) for fit in self.found if fit is not chosen)
        now = self.settings
        return (f"{now['model'].split('/')[-1]}, {now['method']}, {now['batch']} rows of {now['length']} tokens, "
                f"{now['counted']} of which count. {chosen}: worst at {chosen.needs.moment}, most of it {largest}. "
                f"{others}.")

    def table(self) -> Table:
        """Bytes by what they are for, a row for each GPU."""
        return Table([{"GPU": fit.gpu, **fit.needs.row(), "of": f"{fit.has / 1e6:,.0f}",
                       "fits": "yes" if fit.fits else "no"} for fit in self.found], "MB (10^6 bytes)")

    def figure(self):
        """One stacked bar for each GPU, in per cent of its memory."""
        right = sum(fit.fits for fit in self.found)
        name = self.settings["model"].split("/")[-1]
        figure, axes = plots.new(f"{name}, {self.settings['method']}: fits on {right} of {len(self.found)} GPUs",
                                 "held at the worst moment (% of the GPU's memory)", "", 8, 3.4)
        for place, fit in enumerate(reversed(self.found)):
            left = 0.0
            for part, size in fit.needs.live.items():
                width = min(100 * size / fit.has, LIMIT - left)
                axes.barh(place, width, left=left, height=0.6, edgecolor="white", linewidth=0.5,
                          color=plots.COLOURS[HUES[part]] if part in HUES else "#BBBBBB",
                          label=part if not place else None)
                left += width
            axes.annotate(f"{fit.needs.peak / 1e9:.1f} of {fit.has / 1e9:.0f} GB", (min(left, LIMIT) + 1, place),
                          va="center", fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                          fontweight="bold" if fit.gpu == self.gpu else "normal")
        axes.axvline(100 * (1 - SPARE), color="black", linestyle="--", linewidth=1)
        axes.set_ylim(-0.5, len(self.found) - 0.1)  # above the first bar, where no bar can be behind the words
        axes.annotate(f"room to plan with: {1 - SPARE:.0%}", (100 * (1 - SPARE), 1), (4, -2), fontsize=8, va="top",
                      xycoords=("data", "axes fraction"), textcoords="offset points")
        axes.set_yticks(range(len(self.found)), [fit.gpu for fit in reversed(self.found)])
        axes.set_xlim(0, LIMIT + 28)
        axes.set_xticks(range(0, LIMIT + 1, 25))
        axes.grid(axis="x", alpha=0.3)
        axes.grid(axis="y", visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8.5,
                      frameon=False)
        return figure

    def _img(self) -> str:
        data = base64.b64encode(plots.png(self.figure())).decode()
        return f'<img style="max-width:100%" alt="{html.escape(self.said())}" src="data:image/png;base64,{data}">'

    def widget(self):
        """Menus, the sentence and the picture, as an ipywidgets box; all of it works by keyboard."""
        import ipywidgets as w

        now, look = self.settings, {"style": {"description_width": "8em"}, "layout": w.Layout(width="30em",
                                                                                             max_width="95%")}
        menus = {
            "model": w.Dropdown(options=list(KNOWN), value=now["model"], description="model", **look),
            "method": w.Dropdown(options=METHODS, value=now["method"], description="method", **look),
            "dtype": w.Dropdown(options=("float32", "bfloat16"), value=now["dtype"], description="weights in", **look),
            "batch": w.BoundedIntText(now["batch"], min=1, max=512, description="rows a batch", **look),
            "length": w.BoundedIntText(now["length"], min=8, max=32768, step=8, description="tokens a row", **look),
            "counted": w.BoundedIntText(now["counted"], min=1, max=32768, description="that count", **look),
            "checkpointing": w.Checkbox(now["checkpointing"], description="checkpointing", **look),
            "gpu": w.Dropdown(options=list(GPUS), value=self.gpu, description="GPU", **look),
        }
        said = w.HTML(value=self._text(), layout=w.Layout(width="95%"))
        picture = w.HTML(value=self._img(), layout=w.Layout(max_width="100%"))

        def moved(_):
            try:
                self.choose(**{name: menu.value for name, menu in menus.items()})
            except LabError as error:  # an error in a callback would be seen nowhere
                said.value = shown(str(error))
                return
            picture.value, said.value = self._img(), self._text()

        for menu in menus.values():
            menu.observe(moved, "value")
        return w.VBox([*menus.values(), said, picture])

    def _text(self) -> str:
        return f'<div role="status" style="line-height:1.4">{html.escape(self.said())}</div>'

    def _repr_mimebundle_(self, include=None, exclude=None):
        """The widget where there are widgets; beside it the picture and a text, for every other viewer."""
        still = {"text/plain": self.said(), "image/png": plots.png(self.figure())}
        return bundle(still, self.widget, include, exclude), {"image/png": {"alt": self.said()}}
