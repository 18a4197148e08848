"""How the pages in this folder become a site: python -m sphinx -W docs build/site."""

import sys
from pathlib import Path

import parasnake

sys.path.insert(0, str(Path(__file__).parent))

project = "Parasnake"
version = release = parasnake.__version__
copyright = "the Parasnake developers"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "docstrings"]
exclude_patterns = ["_*"]

# All that is referred to must exist. The standard library's own site is not asked: a build needs no
# network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(argparse|collections|os|pathlib|typing|uuid)\..*"),
    ("py:class", r"parasnake\.app\.Function"),  # a type variable
]

myst_heading_anchors = 4  # as GitHub makes them
myst_enable_extensions = ["deflist"]

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"Parasnake {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = html_logo = "_static/parasnake.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f6f3e", "color-brand-content": "#2a6fb0"},
    "dark_css_variables": {"color-brand-primary": "#7fce91", "color-brand-content": "#7db7ec"},
}
