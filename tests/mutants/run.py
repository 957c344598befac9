"""Change deciding code at random places, one change at a time, and see whether the unit tests fail.

    python tests/mutants/run.py [--count 60] [--seed 1] [--jobs 2] [PATTERN ...]

The seed selects mutants from all those of the modules in `TARGETS`, or of those that match a pattern. Each mutant runs
in a copy of the tree: first against the tests of its module and, if they pass, against all unit tests of its part. The
output shows each survivor's diff and the share of mutants that were caught. Some survivors change no behaviour: read
the diff before you write a test. On a busy machine a timeout counts as caught.

Why not an existing tool: mutmut cannot select a random sample, and runs code through trampolines in a tree of its own,
which our editable packages do not import; cosmic-ray keeps its state in a database and has no seeded sample either.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from mutation import Mutant, mutants_of

ROOT = Path(__file__).parents[2]

T = TypeVar("T")

#: Seconds for the tests of a mutant. A mutant that hangs is caught.
LIMIT_SECONDS = 600.0


@dataclass(frozen=True)
class Target:
    """Modules that decide, and the tests to run first. Each glob must match a file."""

    part: str
    modules: str
    tests: tuple[str, ...]

    def files(self) -> list[Path]:
        package = f"{self.part}/src/{next((ROOT / self.part / 'src').glob('ostiary*')).name}"
        return [file for file in _matching(f"{package}/{self.modules}") if file.name != "__init__.py"]

    def test_paths(self) -> list[str]:
        return [str(file) for pattern in self.tests for file in _matching(f"{self.part}/tests/{pattern}")]


_LIBRARY, _AUTH, _GATEWAY = "libs/ostiary", "services/auth", "services/gateway"

TARGETS = (
    Target(_LIBRARY, "_verifier.py", ("test_verifier*.py", "attacks/test_*.py")),
    Target(_LIBRARY, "_jws.py", ("attacks/test_*.py",)),
    Target(_LIBRARY, "_token.py", ("attacks/test_*.py", "test_verifier*.py")),
    Target(_LIBRARY, "_keyset.py", ("test_keyset.py",)),
    Target(_LIBRARY, "_jwks.py", ("test_jwks*.py",)),
    Target(_LIBRARY, "_revocations.py", ("test_revocations*.py", "test_verifier_revocations.py")),
    Target(_LIBRARY, "_feed_client.py", ("test_feed_client*.py",)),
    Target(_LIBRARY, "feed.py", ("test_feed*.py",)),
    Target(_LIBRARY, "http.py", ("test_http.py",)),
    Target(_GATEWAY, "http1/[bfp]*.py", ("http1/test_*.py",)),
    Target(_GATEWAY, "http1/[ht]*.py", ("http1/test_headers.py",)),
    Target(_GATEWAY, "routing/[or]*.py", ("routing/test_*.py", "access/test_re*.py")),
    Target(_GATEWAY, "routing/table.py", ("routing/test_table.py", "routing/test_overlap.py")),
    Target(_GATEWAY, "routing/templates.py", ("routing/test_templates.py", "routing/test_overlap.py")),
    Target(_GATEWAY, "routing/paths.py", ("routing/test_paths.py",)),
    Target(_GATEWAY, "routing/bypass_check.py", ("routing/test_bypass_check.py",)),
    Target(_GATEWAY, "routing/credentials.py", ("routing/test_credentials.py",)),
    Target(_GATEWAY, "routing/hosts.py", ("routing/test_hosts.py", "access/test_host.py")),
    Target(_GATEWAY, "access/forwarded.py", ("access/test_forwarded.py",)),
    Target(_GATEWAY, "proxy/own_urls.py", ("proxy/test_own_urls.py",)),
    Target(_GATEWAY, "access/admission.py", ("access/test_*.py", "ratelimit/test_*.py")),
    Target(_GATEWAY, "access/cors.py", ("access/test_cors.py",)),
    Target(_GATEWAY, "access/unread_head.py", ("access/test_cors.py", "access/test_unread_head.py")),
    Target(_GATEWAY, "access/authentication.py", ("access/test_authentication.py", "access/test_cross_site.py")),
    Target(_GATEWAY, "access/credentials.py", ("access/test_authentication.py", "access/test_cross_site.py")),
    Target(_GATEWAY, "access/login_page.py", ("access/test_authentication.py",)),
    Target(_GATEWAY, "proxy/cookie_fields.py", ("proxy/test_cookie_fields.py",)),
    Target(_GATEWAY, "sessions/*.py", ("sessions/test_*.py", "access/test_auth*.py", "proxy/test_renewing.py")),
    Target(_GATEWAY, "ratelimit/[rt]o*.py", ("ratelimit/test_*.py",)),
    Target(_GATEWAY, "upstream/[cefp]*.py", ("upstream/test_*.py",)),
    Target(_AUTH, "domain/accounts/[!m]*.py", ("domain/accounts/test_*.py",)),
    Target(_AUTH, "domain/sessions/[!m]*.py", ("domain/sessions/test_*.py",)),
    Target(_AUTH, "domain/keys/[!m]*.py", ("domain/keys/test_*.py",)),
    Target(_AUTH, "domain/oauth/[!m]*.py", ("domain/oauth/test_*.py", "routes/oauth/test_*.py")),
    Target(_AUTH, "domain/revocation/[!m]*.py", ("domain/revocation/test_*.py", "routes/revocation/test_*.py")),
)


@dataclass(frozen=True)
class Trial:
    """A mutant, its module, and the tests that may catch it."""

    file: Path
    mutant: Mutant
    target: Target

    def stages(self) -> list[tuple[str, ...]]:
        """Return the module's tests, then all of its part."""
        return [tuple(self.target.test_paths()), (f"{self.target.part}/tests",)]

    def survives(self, tree: Path) -> bool:
        """Run the tests on the mutant in a copy of the tree, and restore the copy."""
        file = tree / self.file
        file.write_text(self.mutant.after)
        try:
            return all(_failure(tree, tests) is None for tests in self.stages())
        finally:
            file.write_text(self.mutant.before)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Find changes of deciding code that no unit test detects.")
    parser.add_argument("--count", type=int, default=60, help="number of mutants")
    parser.add_argument("--seed", type=int, default=1, help="seed of the selection")
    parser.add_argument("--jobs", type=int, default=2, help="mutants to try in parallel")
    parser.add_argument("patterns", nargs="*", help="parts of module paths, to select from these only")
    options = parser.parse_args(arguments)
    trials = _all_trials(options.patterns)
    drawn = random.Random(options.seed).sample(trials, min(options.count, len(trials)))  # noqa: S311 - no secret
    print(f"{len(drawn)} of {len(trials)} mutants, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            trees.put(_copy(Path(directory) / str(number)))
        survivors = sum(_try_all(drawn, trees, options.jobs))
    print(f"caught {len(drawn) - survivors} of {len(drawn)} ({1 - survivors / len(drawn):.1%})")


def _all_trials(patterns: Sequence[str]) -> list[Trial]:
    targets = [(target, file) for target in TARGETS for file in target.files()]
    for target, _ in targets:
        target.test_paths()  # fail now rather than after an hour
    return [
        Trial(file, mutant, target)
        for target, file in targets
        if not patterns or any(pattern in str(file) for pattern in patterns)
        for mutant in mutants_of((ROOT / file).read_text())
    ]


def _try_all(trials: Sequence[Trial], trees: SimpleQueue[Path], jobs: int) -> list[bool]:
    def in_a_tree(work: Callable[[Path], T]) -> T:
        tree = trees.get()
        try:
            return work(tree)
        finally:
            trees.put(tree)

    def attempt(trial: Trial) -> bool:
        survives = in_a_tree(trial.survives)
        mutant = trial.mutant
        diff = f"\n{mutant.diff(str(trial.file))}" if survives else ""
        verdict = "SURVIVED" if survives else "caught"
        print(f"{verdict:9}{trial.file}:{mutant.line}: {mutant.kind}{diff}", flush=True)
        return survives

    with ThreadPoolExecutor(jobs) as pool:
        stages = sorted({stage for trial in trials for stage in trial.stages()})
        for failure in pool.map(lambda stage: in_a_tree(partial(_failure, tests=stage)), stages):
            if failure is not None:
                raise SystemExit(f"mutants: tests fail on the unchanged code:\n{failure}")
        return list(pool.map(attempt, trials))


def _failure(tree: Path, tests: Sequence[str]) -> str | None:
    """Run tests up to the first failure. Return the output, or None if all pass."""
    sources = [str(source) for part in ("libs", "services") for source in (tree / part).glob("*/src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sources), "PYTHONDONTWRITEBYTECODE": "1"}
    selection = ("-m", "not docker and not serial and not slow")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-pno:xdist", "-pno:cacheprovider", *selection, *tests]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not within {LIMIT_SECONDS:.0f} s: {tests}"
    return f"{done.stdout[-3000:]}{done.stderr[-3000:]}" if done.returncode else None


def _copy(tree: Path) -> Path:
    leave_out = shutil.ignore_patterns(".*", "build", "__pycache__", "bench")
    return Path(shutil.copytree(ROOT, tree, ignore=leave_out))


def _matching(pattern: str) -> list[Path]:
    found = sorted(file.relative_to(ROOT) for file in ROOT.glob(pattern))
    if not found:
        raise SystemExit(f"mutants: no file matches {pattern}; update TARGETS")
    return found


if __name__ == "__main__":
    main()
