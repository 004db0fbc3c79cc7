"""Makes everything under ``_assets/vendor``: fonts, icons and mathematics. The results are committed.

Run it only to change one of them::

    npm install --prefix tools
    python tools/vendor.py
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from fontTools.varLib import instancer

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "tools" / "node_modules"
VENDOR = ROOT / "_assets" / "vendor"
LATIN = "U+0020-007E U+00A0-00FF U+0131 U+0152-0153 U+2010-2015 U+2018-201A U+201C-201E U+2020-2022 U+2026 "
LATIN += (
    "U+2030 U+2032-2033 U+2039-203A U+2044 U+2070-2079 U+2080-2089 U+20AC U+2122 U+2190-2193 U+2212 U+2215"
)
GREEK = "U+0393 U+0394 U+0398 U+039B U+03A0 U+03A3 U+03A6 U+03A8 U+03A9 U+03B1-03C9"
ICONS = """
arrow-up bars magnifying-glass sun moon circle-half-stroke list download file file-code file-pdf angle-left
angle-right angle-down angle-up chevron-right chevron-down chevron-up expand circle-info triangle-exclamation
circle-exclamation lightbulb pencil circle-check xmark copy check link outdent indent
""".split()
FACES = [  # package, file, style, weights, our name
    ("source-serif-4", "source-serif-4-{}-wght-normal", (400, 650), "serif"),
    ("source-serif-4", "source-serif-4-{}-wght-italic", (400, 650), "serif-italic"),
    ("source-sans-3", "source-sans-3-{}-wght-normal", (400, 650), "sans"),
    ("source-code-pro", "source-code-pro-{}-wght-normal", (400, 600), "mono"),
]


def cut(
    source: Path, target: Path, characters: str, weights: tuple[int, int] | None, features: list[str]
) -> None:
    """Write the part of a font that holds some characters, features and weights, as woff2."""
    font = TTFont(source)
    options = subset.Options(flavor="woff2", layout_features=features, hinting=False, name_IDs=[1, 2, 13, 14])
    options.drop_tables += ["FFTM"]
    work = subset.Subsetter(options)
    work.populate(unicodes=subset.parse_unicodes(characters.replace(" ", ",")))
    work.subset(font)
    if weights:
        instancer.instantiateVariableFont(font, {"wght": weights}, inplace=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(font, str(target), options)
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1024:.1f} KiB")


def text_fonts() -> None:
    """Source Serif 4, Source Sans 3 and Source Code Pro: Latin, and Greek in a file of its own."""
    for package, name, weights, ours in FACES:
        folder = MODULES / "@fontsource-variable" / package
        features = ["kern", "liga", "ccmp", "locl", "mark", "mkmk", "tnum", "frac"]
        for part, characters, kept in (("latin", LATIN, features), ("greek", GREEK, [])):
            source = folder / "files" / f"{name.format(part)}.woff2"
            cut(source, VENDOR / "fonts" / f"{ours}-{part}.woff2", characters, weights, kept)
        shutil.copy(folder / "LICENSE", VENDOR / "fonts" / f"LICENSE-{package}.txt")


def icons() -> None:
    """The icons that the theme's pages show by name, and those that its other style rules show by code."""
    sheets = ""
    for package in ("pydata_sphinx_theme", "sphinx_book_theme"):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        static = Path(spec.origin).parent / "theme" / package / "static"
        sheets += "".join(path.read_text("utf-8") for path in sorted((static / "styles").glob("*.css")))
        if package == "pydata_sphinx_theme":
            font = static / "vendor/fontawesome/webfonts/fa-solid-900.woff2"
    by_name = re.compile(r"((?:\.fa-[\w-]+:before,?)+)\{content:\"\\(f[0-9a-f]+)\"\}")
    named = {
        code for names, code in by_name.findall(sheets) if any(f".fa-{icon}:" in names for icon in ICONS)
    }
    codes = sorted(named | set(re.findall(r"\\(f[0-9a-f]{3})", by_name.sub("", sheets))))
    cut(font, VENDOR / "icons" / "fa-solid-900.woff2", " ".join(f"U+{code}" for code in codes), None, [])
    (VENDOR / "icons" / "LICENSE.txt").write_text(
        "Font Awesome Free 6, by Fonticons, Inc. (https://fontawesome.com).\n"
        "Icons: CC BY 4.0; font: SIL OFL 1.1.\n"
        "This file holds only the icons that the book's theme uses.\n"
    )


def mathematics() -> None:
    """MathJax's parts in one script, and its fonts as woff2."""
    target = VENDOR / "mathjax"
    entry, out = ROOT / "tools" / "mathjax_entry.mjs", target / "mathjax.js"
    fields = '{"compilerOptions": {"useDefineForClassFields": false}}'  # as MathJax itself is compiled
    subprocess.run(
        [MODULES / ".bin" / "esbuild", entry, "--bundle", "--minify", "--format=iife", "--target=es2020",
         "--legal-comments=none", f"--outfile={out}", f"--tsconfig-raw={fields}"],
        check=True,
    )  # fmt: skip
    shutil.copy(MODULES / "mathjax-full" / "LICENSE", target)
    (target / "fonts").mkdir(exist_ok=True)
    for source in sorted((MODULES / "mathjax-full/es5/output/chtml/fonts/woff-v2").glob("*.woff")):
        characters = " ".join(f"U+{code:04X}" for code in TTFont(source).getBestCmap())
        cut(source, target / "fonts" / f"{source.stem}.woff2", characters, None, [])


if __name__ == "__main__":
    shutil.rmtree(VENDOR, ignore_errors=True)
    text_fonts()
    icons()
    mathematics()
