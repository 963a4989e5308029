"""Runs the test suite on every CPython that can be found on the machine or made.

Usage: test_pythons.py [VERSION ...] [-- PYTEST_ARGUMENT ...]

Versions are looked for on the PATH and among pyenv's; 3.13t is the free-threaded 3.13. The newest
ones come from a Debian root directory, made with debootstrap: that needs root, and Debian's
packages. The free-threaded ones are compiled from Debian's source packages, in some minutes each:
that needs a C compiler, and apt. All that was made is kept in PARMAP_PYTHONS_DIR (default:
~/.cache/parmap-pythons) and used again.
"""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSIONS = ("3.11", "3.12", "3.13", "3.13t", "3.14", "3.14t", "3.15", "3.15t")
DEBIAN_VERSIONS = ("3.14", "3.15")
DEBIAN_SUITE = "forky"
REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parmap-pythons"
WORKSHOP = Path(os.environ.get("PARMAP_PYTHONS_DIR") or CACHE).resolve()
DEBIAN = WORKSHOP / "debian"
FREE_THREADED_SUITES = {"3.13t": "trixie", "3.14t": DEBIAN_SUITE, "3.15t": DEBIAN_SUITE}

# Run in the environment's own Python, outside or inside the root directory. What pip would
# compile for a quarter of an hour is left out: tests that need it skip. These two come in the
# newest release that has a wheel, the others as the constraints say.
SUITE = """
set -e
cd {repository}
[ -x {venv}/bin/python ] || {python} -m venv {venv}
{venv}/bin/python -m pip install --quiet --constraint .ci/constraints.txt pip
{venv}/bin/python -m pip install --quiet --constraint .ci/constraints.txt --editable . --group test
for group in arrays properties; do
    {venv}/bin/python -m pip install --quiet --only-binary :all: --group $group ||
        echo "no wheel for this Python, of the group $group: tests that need it skip"
done
exec {venv}/bin/python -m pytest -p no:cacheprovider {arguments}
"""

# Apt's own lists and settings stay as they are: the line for source packages lives beside the rest.
COMPILE = """
set -e
mkdir -p apt/lists/partial
echo 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main' > apt/sources.list
aside="-o Dir::Etc::SourceList=$PWD/apt/sources.list -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists=$PWD/apt/lists -o Dir::Cache=$PWD/apt"
apt-get $aside update -q
apt-get $aside source -q --download-only python{release}
tar xf python{release}_*.orig.tar.xz
cd Python-{release}.*
nice ./configure -q --disable-gil --disable-test-modules --prefix={prefix}
nice make -s -j2
nice make -s altinstall DESTDIR={unfinished}
"""

# The mounts belong to a namespace that ends with the script, so none can be left behind; nor
# can a process.
CHROOT = """
set -e
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
mount --rbind /sys {root}/sys
for path in {paths}; do
    if [ -d "$path" ]; then mkdir -p "{root}$path"; else
        mkdir -p "{root}$(dirname "$path")"; [ -e "{root}$path" ] || : > "{root}$path"
    fi
    mount --bind "$path" "{root}$path"
done
chroot {root} sh -c {command}
"""


def main() -> int:
    """Test each version; the exit status is that of the suite: 0 when all passed."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    wanted, pytest_arguments = arguments[:split] or list(VERSIONS), arguments[split + 1 :]
    results = {version: test(version, pytest_arguments, split > 0) for version in wanted}
    print("\nSummary")
    for version, result in results.items():
        print(f"  CPython {version:6}{result}")
    return int("FAILED" in results.values() or "passed" not in results.values())


def test(version: str, arguments: list[str], must: bool) -> str:
    """Run the suite on one version: "passed", "FAILED", or why it did not run."""
    python = find(version)
    obstacle = "no interpreter found"
    if python is None and version in DEBIAN_VERSIONS:
        obstacle = make_debian()
    elif python is None and version in FREE_THREADED_SUITES:
        obstacle = compile_free_threaded(version)
        python = find(version)
    if python is None and obstacle:
        print(f"CPython {version}: {obstacle}", flush=True)
        return "FAILED" if must else f"not run: {obstacle}"
    print(f"\nCPython {version}: {python or DEBIAN}", flush=True)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "CI": "true"}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    if python is None:
        # The root directory has no such place; and a virtual environment's would mislead there.
        environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": "/tmp", **pip_settings()}
        command = chroot(suite(f"/usr/bin/python{version}", f"/venv-{version}", arguments))
    else:
        venv = str(WORKSHOP / f"venv-{version}")
        command = ["sh", "-c", suite(python, venv, arguments)]
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    return "FAILED" if done.returncode else "passed"


def suite(python: str, venv: str, arguments: list[str]) -> str:
    """Return the shell script that sets up an environment and runs pytest in it."""
    return SUITE.format(
        repository=shlex.quote(str(REPOSITORY)),
        python=shlex.quote(python),
        venv=shlex.quote(venv),
        arguments=shlex.join(arguments),
    )


def find(version: str) -> str | None:
    """Return an interpreter of *version* from the PATH or from pyenv, or None."""
    candidates = [shutil.which(f"python{version}")]
    if pyenv := shutil.which("pyenv"):
        root = Path(output(pyenv, "root").strip())
        candidates += sorted(map(str, root.glob(f"versions/{version.rstrip('t')}.*/bin/python{version}")))
    candidates += map(str, WORKSHOP.glob(f"python{version}/bin/python{version}"))
    # A shim of pyenv's is on the PATH also where no version is chosen that it could start.
    asked = "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags.replace('d', ''))"
    return next((c for c in candidates if c and output(c, "-c", asked).strip() == version), None)


def make_debian() -> str:
    """Make the Debian root directory, unless it is there; return what hinders, or nothing."""
    if (DEBIAN / "usr/bin/python3.15").exists():
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "making a Debian root directory needs root, on Debian"
    if not shutil.which("debootstrap"):
        subprocess.run(["apt-get", "update", "-q"], check=True)
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "debootstrap"]
        subprocess.run(install, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    recipe = Path("/usr/share/debootstrap/scripts") / DEBIAN_SUITE
    if not recipe.exists():
        recipe.symlink_to("sid")
    packages = [f"python{v}{part}" for v in DEBIAN_VERSIONS for part in ("", "-venv")]
    include = f"--include={','.join(['ca-certificates', *packages])}"
    shutil.rmtree(DEBIAN, ignore_errors=True)
    # Elsewhere first: a directory that is there is a directory that is complete.
    unfinished = WORKSHOP / "debian.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    make = ["debootstrap", "--variant=minbase", include, DEBIAN_SUITE, str(unfinished), mirror()]
    if subprocess.run(make, check=False, stdin=subprocess.DEVNULL).returncode:
        return f"debootstrap failed: see {unfinished}/debootstrap/debootstrap.log"
    unfinished.rename(DEBIAN)
    return ""


def compile_free_threaded(version: str) -> str:
    """Compile a free-threaded Python and install it into the workshop; return what hinders, or nothing."""
    if not all(map(shutil.which, ("apt-get", "make", "cc"))):
        return "compiling a free-threaded Python needs apt, make and a C compiler"
    prefix = WORKSHOP / f"python{version}"
    folder = WORKSHOP / f"python{version}.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    script = COMPILE.format(
        mirror=mirror(),
        suite=FREE_THREADED_SUITES[version],
        release=version.rstrip("t"),
        prefix=shlex.quote(str(prefix)),
        unfinished=shlex.quote(str(folder / "installed")),
    )
    log = folder / "log"
    print(f"compiling CPython {version}, in some minutes: {log}", flush=True)
    with log.open("w") as file:
        options: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        if subprocess.run(["sh", "-c", script], check=False, **options).returncode:
            return f"compiling failed: see {log}"
    # A directory that is there is a directory that is complete.
    Path(f"{folder / 'installed'}{prefix}").rename(prefix)
    shutil.rmtree(folder)
    return ""


def mirror() -> str:
    """Return the address of the Debian mirror that apt is set up with."""
    targets = output("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages")
    found = [line.split()[1] for line in targets.splitlines() if line.startswith("Debian ")]
    if not found:
        sys.exit("apt knows no Debian mirror: run apt-get update")
    return found[0]


def chroot(script: str) -> list[str]:
    """Return the command that runs *script* in the Debian root directory."""
    paths = [str(REPOSITORY), "/etc/resolv.conf", "/etc/hosts", "/etc/ssl", *pip_paths()]
    inner = CHROOT.format(
        root=shlex.quote(str(DEBIAN)),
        paths=" ".join(shlex.quote(path) for path in dict.fromkeys(paths) if Path(path).exists()),
        command=shlex.quote(script),
    )
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return [*unshare, "sh", "-c", inner]


def pip_settings() -> dict[str, str]:
    """Return what pip is configured with here, as environment variables: the same index inside."""
    settings = {}
    for line in output(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        settings[f"PIP_{key.upper().replace('-', '_')}"] = str(ast.literal_eval(value))
    return settings


def pip_paths() -> list[str]:
    """Return the directories and files on this machine that pip's configuration names."""
    words = [word for value in pip_settings().values() for word in value.split()]
    # An index in a directory links to the files beside it.
    paths = [Path(w[7:]).parent if w.startswith("file://") else Path(w) for w in words]
    return [str(p) for p in paths if p.is_absolute() and p.exists() and p != Path("/")]


def output(*command: str) -> str:
    """Return what *command* prints, or nothing when it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
