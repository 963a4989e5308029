"""What is shipped: version, dependencies, files."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import parmap

DISTRIBUTION = "parmap-decorators"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Build the wheel and the source distribution; return the names of the files in each."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    (source,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    return {"wheel": in_wheel, "source": in_source}


def test_version_of_metadata_and_package_agree():
    """The version is said once, so the installed metadata and the package say the same."""
    assert metadata.version(DISTRIBUTION) == parmap.__version__


def test_version_has_an_entry_in_the_changelog():
    """Whoever installs a version finds out what is in it."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert parmap.__version__ in headings


def test_core_dependencies_are_two():
    """Without extras, nothing but cloudpickle and typing-extensions is installed along."""
    requirements = metadata.requires(DISTRIBUTION) or []
    core = {re.split(r"[^\w-]", r)[0] for r in requirements if "extra ==" not in r}

    assert core == {"cloudpickle", "typing-extensions"}


def test_dependencies_have_lower_bounds_only():
    """A library that forbids newer versions of others can't be installed beside them."""
    requirements = metadata.requires(DISTRIBUTION) or []
    bounds = {bound for r in requirements for bound in re.findall(r"[<>=!~]=?", r.partition(";")[0])}

    assert bounds == {">="}


def test_optional_libraries_have_extras():
    """Each optional library can be asked for by name."""
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra")

    assert set(extras or ()) == {"dask", "joblib", "progress", "ray"}


def test_wheel_holds_the_package_and_its_types(built: dict[str, set[str]]):
    """Every module is in the wheel, with the marker that tells type checkers to look, and the template of reports."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "parmap").rglob("*.py")}

    assert modules <= built["wheel"]
    assert {"parmap/py.typed", "parmap/_work/report/page.html"} <= built["wheel"]


def test_wheel_holds_nothing_else(built: dict[str, set[str]]):
    """Tests, examples and documentation stay out of the user's environment."""
    tops = {name.partition("/")[0] for name in built["wheel"]}

    assert tops == {"parmap", f"parmap_decorators-{parmap.__version__}.dist-info"}


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "parmap/py.typed", "pyproject.toml", "tests/test_packaging.py"]
)
def test_source_distribution_can_be_built_and_tested(built: dict[str, set[str]], name: str):
    """Who packages parmap for a system finds all that it takes."""
    assert name in built["source"]


def test_constraints_pin_what_is_declared():
    """The releases that `make test` installs are each named once for this Python, from no place of its own, and allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    declared = [Requirement(line) for line in [*project["project"]["dependencies"], *groups]]
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}

    assert len(pinned) == len(here)
    assert [str(pin) for pin in pins if pin.url or not str(pin.specifier).startswith("==")] == []
    wanted = [each for each in declared if each.marker is None or each.marker.evaluate()]
    assert [
        str(each) for each in wanted if pinned.get(canonicalize_name(each.name), "none") not in each.specifier
    ] == []
