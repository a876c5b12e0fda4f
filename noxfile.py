"""The sessions: `uv run nox -s NAME`, `uv run nox -l` lists them.

All run in the environment that `uv run` made from uv.lock; nothing is installed
twice. Others are made only where that is the point: mosaic-titan's, whose torchtitan
is another one, `build`, because a wheel must work alone, `min_versions`, `examples`,
whose trainers are no part of this project, `bench`, for its peers, and `docs`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests", "lint"]

ROOT = Path(__file__).resolve().parent
# Needs torchtitan 0.3, and the others 0.2.2.
TITAN = "mosaic-titan"
PACKAGES = ("mosaic-config", "mosaic-dataloader", "mosaic-prepare", TITAN, "mosaic-trainspec")
# What a package needs of the others.
NEEDS = {"mosaic-prepare": ("mosaic-dataloader",), TITAN: ("mosaic-dataloader",)}
TITAN_TESTS = f"packages/{TITAN}/tests"
TITAN_ENVIRONMENT = ".venv-titan"
TITAN_GROUP = ("--package", TITAN, "--group", "test")
UNIT_TESTS = (
    *(f"packages/{name}/tests" for name in PACKAGES if name != TITAN),
    "apps/train/tests",
    "tools/tests",
)
# Several packages together, several processes per test (gloo, NCCL).
INTEGRATION_TESTS = "tests"
# What the session `tests` runs beside one another: what has another environment, then those that
# take longest first; with how many processes at least. One process imports torch and torchtitan
# once, and starts the servers that tests share once.
LONG_TESTS = "packages/mosaic-dataloader/tests"
PREPARE_TESTS = "packages/mosaic-prepare/tests"
OTHER_TESTS = tuple(folder for folder in UNIT_TESTS if folder not in (LONG_TESTS, PREPARE_TESTS))
TEST_GROUPS = (
    (1, (TITAN_TESTS,)),
    (2, (LONG_TESTS,)),
    (1, OTHER_TESTS),
    (1, (INTEGRATION_TESTS,)),
    (1, (PREPARE_TESTS,)),
)
# What takes long to import in all groups but the first.
SLOW_IMPORTS = "import moto.server, streaming, torchtitan.train, transformers"

PYTEST = (sys.executable, "-m", "pytest")
NO_TESTS_COLLECTED = 5
# With what a package's unit tests run where nothing else of this workspace is.
TEST_TOOLS = ("hypothesis", "moto[server]", "pytest", "pytest-timeout", "pytest-xdist")
# What mosaicml-streaming's metadata keeps below numpy 2.2 and transformers 5.
ABOVE_CAPS = ("numpy>=2.2", "transformers>=5")
# Where it is set, each process compiles torch and all else anew, which takes 20 seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# `uv run` names its own executable in UV; it need not be on PATH.
UV = os.environ.get("UV", "uv")


@nox.session
def tests(session: nox.Session) -> None:
    """Run everything that needs no GPU, several groups of tests beside one another."""
    _require_environment(session)
    workers = max(1, min(os.cpu_count() or 1, 8))
    chosen = ("-m", "not gpu and not soak")
    if any(TITAN_TESTS in argument for argument in session.posargs):
        if _titan_tests(session, *chosen, *session.posargs):
            session.error("tests failed")
        return
    if _names_tests(session.posargs):
        if _run(session, *PYTEST, *chosen, *session.posargs, env=_test_env(1)):
            session.error("tests failed")
        return

    def run(group: tuple[int, tuple[str, ...]]) -> int:
        least, folders = group
        if folders == (TITAN_TESTS,):
            return _titan_tests(session, *chosen, *folders, *session.posargs, run=_run_beside)
        count = max(least, workers // 2)
        spread = ("-n", str(count), "--dist", "worksteal") if count > 1 else ()
        command = (*PYTEST, *chosen, *spread, *_existing(folders), *session.posargs)
        return _run_beside(session, *command, env=_test_env(2 * workers))

    # Four at a time: at times a test waits, for a store that hangs or for a cluster's start.
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(run, TEST_GROUPS[0])
        # In a new environment this compiles them, for which each of the processes that start
        # together would need 20 seconds.
        _run(session, sys.executable, "-c", SLOW_IMPORTS)
        codes = [*pool.map(run, TEST_GROUPS[1:]), first.result()]
    # Options such as `-k NAME` may leave one group empty, but never all of them.
    empty_allowed = bool(session.posargs) and any(code != NO_TESTS_COLLECTED for code in codes)
    failures = [
        code for code in codes if code and not (code == NO_TESTS_COLLECTED and empty_allowed)
    ]
    if failures:
        session.error("tests failed" if set(failures) - {NO_TESTS_COLLECTED} else "no tests found")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, who may import whom, the lock and the repository's text."""
    _require_environment(session)
    python = sys.executable
    # Two at a time, those that take longest first.
    checks = {
        "mypy --strict": (python, "-m", "mypy", "--strict"),
        # With a cache of its own: modules of the same names are others there.
        f"mypy --strict of {TITAN}": (
            *("env", "-u", "VIRTUAL_ENV", f"UV_PROJECT_ENVIRONMENT={ROOT / TITAN_ENVIRONMENT}"),
            *(UV, "run", "--no-default-groups", *TITAN_GROUP, "mypy", "--strict"),
            *("--cache-dir", ".mypy_cache/titan", f"packages/{TITAN}/src"),
        ),
        # Neither the app nor mosaic-titan is installed; nothing is imported for this.
        "import contracts": (
            *("env", f"PYTHONPATH=apps/train{os.pathsep}packages/{TITAN}/src"),
            *(str(Path(python).with_name("lint-imports")), "--no-cache"),
        ),
        "ruff check": (python, "-m", "ruff", "check"),
        "ruff format": (python, "-m", "ruff", "format", "--check"),
        "sections agree with options": (python, "tools/generate_sections.py", "--check"),
        "no address in uv.lock": (python, "tools/neutral_lock.py", "--check"),
        "uv.lock is up to date": (python, "tools/neutral_lock.py", "--verify"),
        "paths and phrases": (python, "tools/check_text.py"),
    }
    with ThreadPoolExecutor(2) as pool:
        codes = pool.map(lambda command: _run_beside(session, *command), checks.values())
        failed = [name for name, code in zip(checks, codes, strict=True) if code]
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def lock(session: nox.Session) -> None:
    """Lock the workspace and leave no address in uv.lock (options go to `uv lock`)."""
    if _run(session, UV, "lock", *session.posargs):
        session.error("uv could not lock")
    if _run(session, sys.executable, "tools/neutral_lock.py"):
        session.error("uv.lock was not rewritten; do not commit it")


@nox.session
def gpu_integration(session: nox.Session) -> None:
    """Train on the GPUs of this machine (NCCL); skipped where there is none."""
    _require_environment(session)
    _need_gpu(session)
    folders = _existing((INTEGRATION_TESTS, *UNIT_TESTS))
    # -rs: what was skipped for want of GPUs, and how many it takes.
    command = (*PYTEST, "-rs", "-m", "gpu", *(session.posargs or folders))
    code = _run(session, *command, env=_test_env(8, gpus=True))
    _fail_unless_passed(session, code, "gpu")


@nox.session
def soak(session: nox.Session) -> None:
    """Run the long tests: crashes, restarts and changes of layout over and over."""
    _require_environment(session)
    folders = _existing((INTEGRATION_TESTS, *UNIT_TESTS))
    # They know themselves how long they may take.
    options = ("-m", "soak", "--timeout", "0", "--hypothesis-profile", "soak")
    command = (*PYTEST, *options, *(session.posargs or folders))
    _fail_unless_passed(session, _run(session, *command, env=_test_env(2, gpus=True)), "soak")


@nox.session
def mutants(session: nox.Session) -> None:
    """Break one line at a time and see that a test fails (`-- WORD …` tries some of them)."""
    _require_environment(session)
    command = (sys.executable, "tools/run_mutants.py", *session.posargs)
    if _run(session, *command, env=_test_env(2)):
        session.error("a mutant survived or could not be tried")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this project beside its peers (`-- NAME …` runs some, `-- --help` lists them)."""
    # The peers' requirements do not go together with those of the tools for development.
    command = ("--group", "bench", "python", "-m", "benchmarks", *session.posargs)
    if _run_in(session, ".venv-bench", *command):
        session.error("a benchmark failed")


@nox.session
def bench_gpu(session: nox.Session) -> None:
    """Measure training on one GPU of this machine, beside TorchTitan's own loader."""
    _require_environment(session)
    _need_gpu(session)
    command = (sys.executable, "-m", "benchmarks", "gpu", *session.posargs)
    if _run(session, *command):
        session.error("the benchmark failed")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages in docs/ into build/docs; a warning is an error."""
    command = ("python", "-m", "sphinx", "-W", "--keep-going", "-E", "docs", "build/docs")
    if _run_in(session, ".venv-docs", "--group", "docs", *command):
        session.error("the pages were not built")


@nox.session
def examples(session: nox.Session) -> None:
    """Train with other trainers on CPU, kill them, go on (options go to pytest)."""
    # Nothing of this project but the loader: torchtitan is not there.
    group = ("--package", "mosaic-dataloader", "--group", "examples")
    if _run_in(session, ".venv-examples", *group, "pytest", "examples", *session.posargs):
        session.error("an example failed")


@nox.session
def build(session: nox.Session) -> None:
    """Build each package, look into its wheel, install it alone and import it."""
    names = session.posargs or PACKAGES
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for name in sorted({*names, *(needed for one in names for needed in NEEDS.get(one, ()))}):
        session.run(UV, "build", "--package", name, "--out-dir", str(dist), external=True)
    wheels = {name: next(dist.glob(f"{name.replace('-', '_')}-*.whl")) for name in names}
    built = [str(path) for path in sorted(dist.iterdir()) if path.suffix in (".whl", ".gz")]
    session.run(sys.executable, "tools/check_wheel.py", *built, external=True)
    # What package indexes themselves refuse, above all a readme that does not render.
    session.run(UV, "tool", "run", "twine", "check", "--strict", *built, external=True)
    for name, wheel in wheels.items():
        # The versions that everything else is tested with, as upper and lower bound.
        constraints = Path(session.create_tmp(), f"{name}.txt")
        session.run(
            *(UV, "export", "--quiet", "--frozen", "--package", name, "--no-emit-workspace"),
            *("--no-hashes", "--no-header", "--no-annotate", "--output-file", str(constraints)),
            external=True,
            silent=True,
        )
        needed = [next(dist.glob(f"{n.replace('-', '_')}-*.whl")) for n in NEEDS.get(name, ())]
        _install_alone(session, name, [wheel, *needed], constraints)


@nox.session
def min_versions(session: nox.Session) -> None:
    """Run each package's unit tests with the oldest and the newest of what it says it needs."""
    ends = {"oldest": "lowest-direct", "newest": "highest"}
    arguments = set(session.posargs)
    if unknown := arguments - set(PACKAGES) - set(ends):
        session.error(f"not a package, {' or '.join(ends)}: {', '.join(sorted(unknown))}")
    failed = []
    for name in [n for n in PACKAGES if n in arguments] or PACKAGES:
        for end in [e for e in ends if e in arguments] or ends:
            python = _install_at(session, name, end, ends[end])
            code = _run(
                session,
                *(str(python), "-m", "pytest", "-m", "not gpu and not soak"),
                # Not the root's: they would lend the other packages' sources and the app.
                *("-o", "pythonpath=", "-n", str(min(os.cpu_count() or 1, 8))),
                f"packages/{name}/tests",
                env=_test_env(min(os.cpu_count() or 1, 8)),
            )
            failed += [f"{name} with the {end}"] if code else []
            # Torch and its libraries take gigabytes.
            shutil.rmtree(python.parent.parent)
    if failed:
        session.error(f"tests failed: {', '.join(failed)}")


@nox.session
def newest(session: nox.Session) -> None:
    """Run mosaic-dataloader's tests with numpy and transformers above mosaicml-streaming's caps."""
    name = "mosaic-dataloader"
    venv = Path(session.create_tmp(), "newest").resolve()
    overrides = venv.with_suffix(".txt")
    overrides.write_text("\n".join(ABOVE_CAPS))
    python = _new_environment(session, venv)
    session.run(
        *(UV, "pip", "install", "--quiet", "--python", str(python), "--override", str(overrides)),
        *("--editable", _with_extras(f"packages/{name}"), *TEST_TOOLS),
        external=True,
    )
    shown = "import numpy, transformers as t; print('numpy', numpy.__version__, t.__version__)"
    session.run(str(python), "-c", shown, external=True)
    workers = min(os.cpu_count() or 1, 8)
    chosen = ("-m", "not gpu and not soak", "-o", "pythonpath=", "-n", str(workers))
    folders = session.posargs or [f"packages/{name}/tests"]
    code = _run(session, str(python), "-m", "pytest", *chosen, *folders, env=_test_env(workers))
    shutil.rmtree(venv)
    if code:
        session.error("tests failed")


def _need_gpu(session: nox.Session) -> None:
    probe = "import torch; raise SystemExit(not torch.cuda.is_available())"
    if _run(session, sys.executable, "-c", probe):
        session.skip("PyTorch finds no CUDA device on this machine")


def _new_environment(session: nox.Session, venv: Path) -> Path:
    """Make an empty environment; returns its Python.

    It lies below the root and not in /tmp, so that uv can link from its cache instead of copying.
    """
    session.run(
        *(UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(venv)), external=True
    )
    return venv / "bin" / "python"


def _install_at(session: nox.Session, name: str, end: str, resolution: str) -> Path:
    """Make an environment of one end of the versions that a package allows; returns its Python."""
    venv = Path(session.create_tmp(), f"{name}-{end}").resolve()
    package = f"packages/{name}"
    # What the package itself asks for is held, whatever the test tools bring along.
    bounds, held = venv.with_suffix(".txt"), venv.with_suffix(".held.txt")
    requirements = _requirements(ROOT / package)
    # uv alone does not go for the oldest of what others ask for, too: the newest torchvision, which
    # mosaicml-streaming needs, would decide on torch.
    held.write_text("\n".join(_lowest(requirements)) if end == "oldest" else "")
    compiled = _run(
        session,
        *(UV, "pip", "compile", "--quiet", "--upgrade", "--resolution", resolution),
        *("--python", sys.executable, "--all-extras", "--no-header", "--no-annotate"),
        *("--constraint", str(held), "--output-file", str(bounds), f"{package}/pyproject.toml"),
    )
    if compiled:
        session.error(f"what {name} says it needs does not go together: raise what uv names above")
    pairs = (line.split("==") for line in bounds.read_text().splitlines() if "==" in line)
    resolved = {distribution: version for distribution, version in pairs}
    versions = {r.name: resolved[r.name] for r in requirements}
    bounds.write_text("\n".join(f"{n}=={v}" for n, v in versions.items()))
    session.log(f"{name} with the {end}: {' '.join(f'{n} {v}' for n, v in versions.items())}")
    python = _new_environment(session, venv)
    session.run(
        *(UV, "pip", "install", "--quiet", "--python", str(python)),
        *("--constraint", str(bounds), "--editable", _with_extras(package), *TEST_TOOLS),
        *(word for needed in NEEDS.get(name, ()) for word in ("--editable", f"packages/{needed}")),
        external=True,
    )
    return python


def _requirements(package: Path) -> list[Requirement]:
    """What a package's pyproject.toml asks for, extras included, besides the other packages."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return [r for r in map(Requirement, lines) if r.name not in PACKAGES]


def _lowest(requirements: list[Requirement]) -> list[str]:
    """The lower bound of each, as the only version."""
    return [
        f"{requirement.name}=={bound.version}"
        for requirement in requirements
        for bound in requirement.specifier
        if bound.operator == ">="
    ]


def _with_extras(package: str) -> str:
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    extras = ",".join(project.get("optional-dependencies", {}))
    return f"{package}[{extras}]" if extras else package


def _install_alone(session: nox.Session, name: str, wheels: list[Path], constraints: Path) -> None:
    venv = Path(session.create_tmp(), name).resolve()
    python = _new_environment(session, venv)
    session.run(
        *(UV, "pip", "install", "--quiet", "--python", str(python)),
        *("--constraint", str(constraints), *map(str, wheels)),
        external=True,
    )
    there = {name, *NEEDS.get(name, ())}
    absent = [other.replace("-", "_") for other in PACKAGES if other not in there]
    if name in ("mosaic-dataloader", "mosaic-prepare"):
        absent.append("torchtitan")
    # -I: neither the working directory nor PYTHONPATH may lend a hand.
    session.run(
        *(str(python), "-I", "tools/check_installed.py", name, "--absent", *absent), external=True
    )
    shutil.rmtree(venv)


def _run(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> int:
    """Run a command from the root and return its exit status, whatever it is.

    `session.run` ends the session at the first failure; a report of all of them
    is more useful.
    """
    session.log(" ".join(command))
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def _run_beside(session: nox.Session, *command: str, env: dict[str, str] | None = None) -> int:
    """The same, beside other commands: what it prints is shown in one piece when it has ended."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    session.log(f"{' '.join(command)}\n{done.stdout.rstrip()}")
    return done.returncode


def _titan_tests(session: nox.Session, *arguments: str, run: Callable[..., int] = _run) -> int:
    """Run mosaic-titan's tests; several of them start processes of their own."""
    command = (*TITAN_GROUP, "pytest", "-o", "pythonpath=", *arguments)
    return _run_in(session, TITAN_ENVIRONMENT, *command, env=_test_env(2), run=run)


def _run_in(
    session: nox.Session,
    environment: str,
    *command: str,
    env: dict[str, str] | None = None,
    run: Callable[..., int] = _run,
) -> int:
    """Run a command, after options for `uv run`, in an environment besides the usual one.

    `run` says how: `_run`, or `_run_beside`.
    """
    env = {**(env or os.environ), "UV_PROJECT_ENVIRONMENT": str(ROOT / environment)}
    env.pop("VIRTUAL_ENV", None)
    return run(session, UV, "run", "--no-default-groups", *command, env=env)


def _require_environment(session: nox.Session) -> None:
    if importlib.util.find_spec("pytest") is None:
        session.error(f"run it in the project's environment: uv run nox -s {session.name}")


def _existing(folders: tuple[str, ...]) -> list[str]:
    return [folder for folder in folders if (ROOT / folder).is_dir()]


def _fail_unless_passed(session: nox.Session, code: int, marker: str) -> None:
    if code == NO_TESTS_COLLECTED:
        session.error(f"no test has the marker {marker!r}")
    if code:
        session.error(f"{marker} tests failed")


def _names_tests(arguments: list[str]) -> bool:
    """Whether a file or folder of tests is among the arguments for pytest."""
    takes_value = {"-k", "-m", "-n", "-o", "-p", "-W"}
    return any(
        previous not in takes_value and Path(ROOT, argument.split("::")[0]).exists()
        for previous, argument in zip(["", *arguments], arguments, strict=False)
    )


def _test_env(processes: int, *, gpus: bool = False) -> dict[str, str]:
    """The environment of a test run in which so many processes compute at once.

    What the caller has set stays as it is, except that GPUs are hidden from the
    tests that are to pass without one: they do the same on every machine.
    """
    threads = str(max(1, min(4, (os.cpu_count() or 1) // processes)))
    defaults = {
        # Without a bound, each process takes every core, and they all wait for one another.
        "OMP_NUM_THREADS": threads,
        # The tokenizers' own threads. Bounded, not switched off by TOKENIZERS_PARALLELISM,
        # which would also hide what happens to them in forked workers.
        "RAYON_NUM_THREADS": threads,
        # No test downloads anything.
        "HF_HUB_OFFLINE": "1",
    }
    hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {**defaults, **os.environ, **hidden}
