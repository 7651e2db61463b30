"""Sphinx's settings for the site of the solved labs; `make html` calls them through labkit.site."""

project = "Fine-tuning small language models, hands on"
copyright = "the authors of the course"  # noqa: A001
extensions = ["myst_nb", "sphinx_copybutton"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "Fine-tuning small language models"
language = "en"
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # the outputs are those of the solved notebooks
nb_merge_streams = True
nb_ipywidgets_js = {}  # no widget is alive on a page, and none is fetched from elsewhere
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["mystnb.unknown_mime_type"]  # a widget beside its still picture
copybutton_exclude = ".linenos, .gp, .go"
