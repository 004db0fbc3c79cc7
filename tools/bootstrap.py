"""Sets the book up and runs its commands; needs nothing but Python (the standard library).

    python tools/bootstrap.py book        build the book, print the page to open
    python tools/bootstrap.py test        verify everything: style, types, package, notebooks, site
    python tools/bootstrap.py lab         open the chapters in JupyterLab
    python tools/bootstrap.py notebooks   run all notebooks and store their outputs
    python tools/bootstrap.py setup       only make .venv
    python tools/bootstrap.py clean       remove what was built (clean all: .venv too)

Each works as the first command in a fresh clone and makes .venv when it is missing or out of date.
`test style`, `test package`, `test notebooks`, `test site` verify one part. `stranger` repeats, without data
and without network, what a stranger's machine can do.
"""

from __future__ import print_function

import os
import sys

# First, and in the syntax of any Python, so that an old one gets one clear line and not a traceback.
OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def stop(line):
    sys.stderr.write(line + "\n")
    sys.exit(1)


def newer_python():
    """The name of a Python on the path that is new enough, or ''."""
    import subprocess

    for name in ("python3.11", "python3.12", "python3.13", "python3.14"):
        try:
            with open(os.devnull, "w") as silent:
                if subprocess.call([name, "--version"], stdout=silent, stderr=silent) == 0:
                    return name
        except OSError:
            pass
    return ""


if sys.version_info[:2] < OLDEST:
    found = newer_python()
    stop(
        "This book needs Python 3.11 or later and this is Python %d.%d: %s"
        % (
            sys.version_info[0],
            sys.version_info[1],
            "try `make book PYTHON=%s` or `%s tools/bootstrap.py book`." % (found, found)
            if found
            else "install a newer one from https://www.python.org/downloads/ and run this command with it.",
        )
    )

for module, cure in (
    ("venv", "on Debian and Ubuntu `apt install python3-venv`"),
    ("ensurepip", "on Debian and Ubuntu `apt install python3-venv`"),
    ("ssl", "install OpenSSL and build Python again, or take Python from python.org"),
    ("sqlite3", "install SQLite and build Python again, or take Python from python.org"),
    ("ctypes", "install libffi and build Python again, or take Python from python.org"),
    ("zlib", "install zlib and build Python again, or take Python from python.org"),
    ("bz2", "install bzip2 and build Python again, or take Python from python.org"),
    ("lzma", "install xz and build Python again, or take Python from python.org"),
):
    try:
        __import__(module)
    except ImportError:
        stop("This Python (%s) has no module %s, which the book needs: %s." % (sys.executable, module, cure))

import glob
import hashlib
import re
import shutil
import subprocess
import time
from pathlib import Path

VENV = os.path.join(ROOT, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")
STAMP = os.path.join(VENV, "complete")  # written last: what this environment was made from
UNFINISHED = os.path.join(VENV, "unfinished")  # there while pip works: an interrupted one is made anew
LOGS = os.path.join(ROOT, "_build", "logs")
SITE = os.path.join(ROOT, "_build", "html")
JUPYTER_BOOK = [PYTHON, "-c", "import sys; from jupyter_book.cli.main import main; sys.exit(main())"]
VERBOSE = os.environ.get("VERBOSE", "") not in ("", "0")


def say(line):
    print(line)
    sys.stdout.flush()


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def environment(**extra):
    """The variables of every command: one thread, the environment's own programs first, no chatter."""
    variables = dict(os.environ)
    for name in ("PYTHONHOME", "MPLBACKEND", "VIRTUAL_ENV"):
        variables.pop(name, None)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[name] = "1"
    variables["PATH"] = BIN + os.pathsep + variables.get("PATH", "")
    variables["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    variables["PYTHONIOENCODING"] = "utf-8"
    if not VERBOSE:
        variables["NO_COLOR"] = "1"
    variables.update(extra)
    return variables


class Step(object):
    """One command: its output goes to a log, one line about it to the terminal.

    ``keep`` finds the lines of the log that are always shown, ``blame`` those that say why it failed.
    """

    def __init__(self, name, command, keep="", blame="", **variables):
        self.name, self.keep, self.blame = name, keep, blame
        if not os.path.isdir(LOGS):
            os.makedirs(LOGS)
        self.log = os.path.join(LOGS, re.sub(r"\W+", "-", name.lower()).strip("-") + ".log")
        self.started = time.time()
        self.file = None if VERBOSE else open(self.log, "w", encoding="utf-8")
        try:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=self.file,
                stderr=subprocess.STDOUT if self.file else None,
            )
        except OSError as error:
            stop("%s could not start: %s" % (name, error))

    def wait(self):
        """Wait for the end, print the line, return whether it went well."""
        try:
            code = self.process.wait()
        except KeyboardInterrupt:
            self.process.wait()
            stop("Interrupted.")
        seconds = time.time() - self.started
        if self.file:
            self.file.close()
        text = "" if VERBOSE else re.sub(r"\x1b\[[0-9;]*m", "", read(self.log))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        notes = [line for line in lines if self.keep and re.search(self.keep, line)]
        say("  %-44s %4.0f s%s" % (self.name, seconds, "" if code == 0 else "  FAILED"))
        for line in notes:
            say("      " + line.strip("= "))
        if code != 0 and not VERBOSE:
            guilty = [line for line in lines if self.blame and re.search(self.blame, line)]
            say("\n".join("    | " + line[:200] for line in guilty[:40] or lines[-40:]))
            say("  Full log: " + self.log)
        return code == 0


def do(name, command, **options):
    """Run one step; stop if it fails."""
    if not Step(name, command, **options).wait():
        sys.exit(1)


# --- the environment ---------------------------------------------------------------------------------------


def recipe():
    """What the environment depends on: the pins, the package's declaration, this Python, this folder."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update(read(os.path.join(ROOT, name)).encode("utf-8"))
    version = "%d.%d" % sys.version_info[:2]
    return "%s\npython %s\n%s\n" % (digest.hexdigest(), version, ROOT)


def usable():
    """Whether the .venv that is there has a working Python of this version and belongs to this folder."""
    if not os.path.isfile(PYTHON) or os.path.exists(UNFINISHED):
        return False
    if os.path.exists(STAMP) and read(STAMP).splitlines()[1:] != recipe().splitlines()[1:]:
        return False
    code = "import sys, pip; sys.exit(sys.version_info[:2] != %r)" % (tuple(sys.version_info[:2]),)
    return subprocess.call([PYTHON, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def install(arguments, name, hint=""):
    """One pip call; on failure a line that says what to do."""
    step = Step(name, [PYTHON, "-m", "pip", "install", "--quiet", "--progress-bar", "off"] + arguments)
    if step.wait():
        return
    log = "" if VERBOSE else read(step.log)
    if re.search(r"NewConnectionError|Max retries|Temporary failure in name resolution|ConnectTimeout", log):
        stop("No network: the first set-up downloads the environment. Connect and run the command again.")
    if re.search(r"No space left", log):
        stop(
            "The disk is full: the environment needs about 2 GB (on Linux about 6 GB with CUDA's libraries)."
        )
    stop(hint or "The environment could not be installed; the log above names the package.")


def setup():
    """Make .venv, or bring it up to date; nothing to do when its stamp says so."""
    if os.path.exists(STAMP) and read(STAMP) == recipe() and usable():
        return
    if os.path.isdir(VENV) and not usable():
        say("The .venv that is here is unfinished, moved or made by another Python: making it anew.")
        shutil.rmtree(VENV)
    version = "%d.%d.%d" % sys.version_info[:3]
    say("Setting up .venv with Python %s (the first time this takes minutes and about 2 GB)" % version)
    if not os.path.isdir(VENV):
        do("make .venv", [sys.executable, "-m", "venv", VENV])
    write(UNFINISHED, "")
    if os.path.exists(STAMP):
        os.remove(STAMP)
    pins = read(os.path.join(ROOT, "requirements.txt"))
    torch = re.search(r"^torch==\S+", pins, re.M).group(0)
    install(
        [torch],
        "install " + torch.replace("==", " "),
        "No %s for Python %s on this system: try another Python, for example `make book PYTHON=python3.11`."
        % (torch.replace("==", " "), version),
    )
    install(["-r", "requirements.txt"], "install the other pinned packages")
    install(["--no-deps", "--no-build-isolation", "-e", "."], "install mtl_ref from this folder")
    do("check the environment", [PYTHON, "-m", "pip", "check"])
    write(STAMP, recipe())
    os.remove(UNFINISHED)


# --- the site ----------------------------------------------------------------------------------------------


def site_page(name):
    return os.path.join(SITE, *(name + ".html").split("/"))


def build_site(every_page=False):
    """Build the site; warnings are errors; every page of the table of contents must be there."""
    forget = [os.path.join(ROOT, "_build", ".doctrees")]
    started = time.time() - 1
    command = JUPYTER_BOOK + ["build", "-W", "-n", "--keep-going"] + (["--all"] if every_page else []) + ["."]
    if not Step("build the site", command, blame=r"WARNING|ERROR|[Ee]xception").wait():
        for (
            folder
        ) in forget:  # a page read with a warning must be read again, or the next build would be green
            shutil.rmtree(folder, ignore_errors=True)
        sys.exit(1)
    names = re.findall(r"^\s*(?:-\s+)?(?:root|file):\s*(\S+)", read(os.path.join(ROOT, "_toc.yml")), re.M)
    pages = [os.path.splitext(name)[0] if name.endswith((".md", ".ipynb")) else name for name in names]
    absent = [page for page in pages if not os.path.isfile(site_page(page))]
    if absent or not pages:
        stop("The build reported success and wrote no page for: %s" % (", ".join(absent) or "_toc.yml"))
    front = os.path.join(SITE, "index.html")
    if not os.path.isfile(front) or (every_page and os.path.getmtime(site_page(pages[0])) < started):
        stop("The build reported success and wrote no front page (%s)." % front)
    return len(pages)


def book(arguments):
    setup()
    n_pages = build_site()
    front = Path(SITE, "index.html")
    say("The book is built (%d pages). Open %s" % (n_pages, front.as_uri()))


# --- verification ------------------------------------------------------------------------------------------

SUMMARY = r"^SKIPPED |^=* ?\d+ (passed|failed|skipped|error)|^TOTAL|^\d+ (same|changed|failed|skipped)"


def pytest(*arguments):
    return [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"] + list(arguments)


def nbval(*arguments):
    """Strict comparison of all stored outputs; notebooks without their data are skipped by name."""
    strict = ["-p", "tests.notebooks.missing_data", "--nbval", "--nbval-current-env"]
    return pytest(*(strict + ["--nbval-cell-timeout", "300"] + list(arguments)))


def check_style():
    do("style (ruff check)", [PYTHON, "-m", "ruff", "check", "--no-cache", "."])
    do("format (ruff format)", [PYTHON, "-m", "ruff", "format", "--no-cache", "--check", "."])
    do("types (mypy --strict)", [PYTHON, "-m", "mypy", "--strict", "mtl_ref"], keep=r"^Success|^Found")


def check_package():
    others = ["--ignore=tests/site", "--ignore=tests/notebooks"]
    coverage = ["--cov=mtl_ref", "--cov-branch", "--cov-report=term-missing", "--cov-fail-under=95"]
    do("package tests, branch coverage", pytest("-n", "2", "tests", *(others + coverage)), keep=SUMMARY)


def check_notebooks():
    do("manners of the notebooks", pytest("-n", "2", "tests/notebooks"), keep=SUMMARY)
    # Two cores: the strict comparison and the second run share them.
    steps = [
        Step("strict comparison (nbval)", nbval("chapters"), keep=SUMMARY),
        Step("second run, zero difference", [PYTHON, "tools/run_notebooks.py", "--check"], keep=SUMMARY),
    ]
    if not all([step.wait() for step in steps]):
        sys.exit(1)


def check_site():
    build_site(every_page=True)
    if os.path.isdir(os.path.join(ROOT, "tests", "site")):
        do("site tests", pytest("tests/site"), keep=SUMMARY)


PARTS = [
    ("style", check_style),
    ("package", check_package),
    ("notebooks", check_notebooks),
    ("site", check_site),
]


def test(arguments):
    unknown = [name for name in arguments if name not in dict(PARTS)]
    if unknown:
        stop("Unknown part %s: choose from %s." % (unknown[0], ", ".join(name for name, _ in PARTS)))
    started = time.time()
    setup()
    for name, check in PARTS:
        if not arguments or name in arguments:
            check()
    say("Verified in %.0f s: %s." % (time.time() - started, ", ".join(arguments or [n for n, _ in PARTS])))


def stranger(arguments):
    """The same commands as on a machine with neither data nor network; the skips must be named."""
    import json
    import tempfile

    setup()
    with tempfile.TemporaryDirectory() as empty:
        for name in ("MTL_REF_DATA", "MTL_REQUIRE_DATA", "MTL_REQUIRE_BROWSER"):
            os.environ.pop(name, None)
        for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "MTL_REF_CACHE"):
            os.environ[name] = empty  # no cache of earlier downloads
        os.environ["PYTHONPATH"] = os.path.join(ROOT, "tests", "offline")
        blocked = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), timeout=1)\n"
        blocked += (
            "except OSError as error: raise SystemExit('no network' not in str(error))\nraise SystemExit(1)"
        )
        do("the network is blocked", [PYTHON, "-c", blocked])
        build_site()
        needy, free = [], []
        for path in sorted(glob.glob(os.path.join(ROOT, "chapters", "**", "*.ipynb"), recursive=True)):
            if ".ipynb_checkpoints" not in path:
                needs = json.loads(read(path))["metadata"].get("mtl", {}).get("data")
                (needy if needs else free).append(os.path.relpath(path, ROOT).replace(os.sep, "/"))
        tests = [t for t in ("tests/test_datasets.py", "tests/test_copying.py") if os.path.isfile(t)]
        do("package tests without data", pytest(*tests), keep=SUMMARY)
        if needy:
            for name, command in (
                ("strict comparison without data", nbval(*needy)),
                (
                    "second run without data and network",
                    [PYTHON, "tools/run_notebooks.py", "--check"] + needy + free[:1],
                ),
            ):
                step = Step(name, command, keep=SUMMARY)
                if not step.wait():
                    sys.exit(1)
                line = "" if VERBOSE else "".join(re.findall(r"^SKIPPED notebooks.*$", read(step.log), re.M))
                unnamed = [path for path in needy if path not in line]
                if not VERBOSE and (unnamed or "(%d)" % len(needy) not in line):
                    stop("Not skipped by name and count: %s" % ", ".join(unnamed or needy))
    say("A stranger without data and network builds the book; %d notebooks are skipped by name." % len(needy))


# --- the other commands ------------------------------------------------------------------------------------


def lab(arguments):
    setup()
    command = [PYTHON, "-m", "jupyterlab", "--notebook-dir", ROOT] + list(arguments)
    command += ["--LabApp.default_url=/lab/tree/chapters", "--LabApp.news_url=None"]
    try:
        sys.exit(subprocess.call(command, cwd=ROOT, env=environment()))
    except KeyboardInterrupt:
        sys.exit(0)


def notebooks(arguments):
    setup()
    sys.exit(
        subprocess.call([PYTHON, "tools/run_notebooks.py"] + list(arguments), cwd=ROOT, env=environment())
    )


def clean(arguments):
    for name in ["_build", ".mypy_cache", ".pytest_cache", ".ruff_cache"] + (["all"] == arguments) * [
        ".venv"
    ]:
        shutil.rmtree(os.path.join(ROOT, name), ignore_errors=True)
    say(
        "Removed what was built%s."
        % ("" if ["all"] == arguments else " (.venv stays; `clean all` removes it too)")
    )


def help_(arguments):
    say(
        """\
make book        build the book, print the page to open (the first time it makes .venv)
make test        verify everything: style, types, package, notebooks, site
make lab         open the chapters in JupyterLab
make notebooks   run all notebooks and store their outputs
make clean       remove what was built

Without make: python tools/bootstrap.py book (or test, lab, ...).
Full output instead of logs: VERBOSE=1 make test."""
    )


COMMANDS = {
    "book": book,
    "test": test,
    "lab": lab,
    "notebooks": notebooks,
    "setup": lambda arguments: setup(),
    "stranger": stranger,
    "clean": clean,
    "help": help_,
}


def main(arguments):
    name = arguments[0] if arguments else "help"
    if name not in COMMANDS:
        stop("Unknown command %s: choose from %s." % (name, ", ".join(sorted(COMMANDS))))
    os.chdir(ROOT)
    COMMANDS[name](arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
