import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools import neutral_lock
from tools.lock_contents import LockError, differences, read_lock
from tools.neutral_lock import neutralize

# Not the address of a real index; none may stand in this repository.
INDEX = "https://index.invalid"

words = st.text("abcxyz", min_size=1, max_size=6)
versions = st.builds("{}.{}".format, st.integers(0, 99), st.integers(0, 99))
hashes = st.text("0123456789abcdef", min_size=8, max_size=8).map("sha256:{}".format)


@st.composite
def locks(draw: st.DrawFn) -> str:
    """Text of a uv.lock as uv writes it: a root, and packages that depend on one another."""
    registry = f"{INDEX}/{draw(words)}"
    names = draw(st.lists(words, min_size=1, max_size=5, unique=True))
    lines = ["version = 1", "revision = 5", 'requires-python = ">=3.11"', ""]
    lines += ["[manifest]", 'members = [\n    "root",\n]', ""]
    for name in names:
        version = draw(versions)
        lines += ["[[package]]", f'name = "{name}"', f'version = "{version}"']
        lines += [f'source = {{ registry = "{registry}" }}']
        if wanted := draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
            lines += ["dependencies = ["]
            for other in wanted:
                source = f', version = "1.0", source = {{ registry = "{registry}" }}'
                marker = ", marker = \"python_full_version < '3.12'\""
                extra = draw(st.sampled_from(["", marker, source, source + marker]))
                lines += [f'    {{ name = "{other}"{extra} }},']
            lines += ["]"]
        address = f"{INDEX}/files/{draw(words)}/{name}-{version}"
        rest = f'size = {draw(st.integers(1, 10**9))}, upload-time = "2025-01-01T00:00:00.5Z"'
        if draw(st.booleans()):
            lines += [f'sdist = {{ url = "{address}.tar.gz", hash = "{draw(hashes)}", {rest} }}']
        lines += ["wheels = ["]
        for tag in draw(st.lists(words, min_size=1, max_size=3, unique=True)):
            local = draw(st.sampled_from(["", "%2Bcpu"]))
            lines += [
                f'    {{ url = "{address}{local}-{tag}.whl", hash = "{draw(hashes)}", {rest} }},'
            ]
        lines += ["]", ""]
    lines += ["[[package]]", 'name = "root"', 'version = "0.1.0"', 'source = { virtual = "." }']
    lines += ["dependencies = [", f'    {{ name = "{names[0]}" }},', "]", ""]
    lines += ["[package.dev-dependencies]", f'dev = [\n    {{ name = "{names[-1]}" }},\n]', ""]
    lines += ["[package.metadata]", f'requires-dist = [{{ name = "{names[0]}" }}]', ""]
    lines += ["[package.metadata.requires-dev]", "dev = ["]
    lines += [f'    {{ name = "{names[-1]}", specifier = ">=0.1" }},', "]"]
    return "\n".join(lines) + "\n"


@settings(max_examples=settings().max_examples // 4)
@given(locks())
def test_the_neutral_form_keeps_everything_but_the_addresses(lock: str) -> None:
    neutral = neutralize(lock)
    assert "://" not in neutral
    assert "package.metadata" not in neutral
    assert "%2B" not in neutral  # a file name, not a part of an address
    assert read_lock(neutral) == read_lock(lock)
    assert all(package.files for (name, _), package in read_lock(neutral).items() if name != "root")
    assert differences(neutral, lock) == []
    assert neutralize(neutral) == neutral
    # Where the files come from does not matter: two indexes, one committed lock.
    assert neutralize(lock.replace(INDEX, "http://mirror.invalid:3141/root")) == neutral


@settings(max_examples=settings().max_examples // 4)
@given(locks(), st.data())
def test_any_changed_version_hash_or_dependency_is_a_difference(
    lock: str, data: st.DataObject
) -> None:
    neutral = neutralize(lock)
    old, new = data.draw(
        st.sampled_from(
            [
                ('version = "0.1.0"', 'version = "0.1.1"'),
                ('hash = "sha256:', 'hash = "sha256:0'),
                ('    { name = "', '    { name = "other'),
                ("[package.dev-dependencies]\ndev", "[package.dev-dependencies]\ntest"),
            ]
        )
    )
    changed = neutral.replace(old, new, 1)
    assert changed != neutral
    assert len(differences(neutral, changed)) in (1, 2)


def test_files_that_one_index_lacks_are_no_difference_unless_nothing_is_left() -> None:
    def lock(*files: str) -> str:
        wheels = "".join(f'    {{ path = "{name}", hash = "sha256:0" }},\n' for name in files)
        return (
            '[[package]]\nname = "a"\nversion = "1"\nsource = { registry = "." }\n'
            f"wheels = [\n{wheels}]\n"
        )

    assert differences(lock("a.whl", "b.whl"), lock("b.whl", "c.whl")) == []
    assert differences(lock("a.whl"), lock("c.whl")) == ["a 1: no file in common"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[package]]\nname = "a"\nversion = "1"\nsource = { git = "https://x.invalid/a#1" }\n',
            "holds an address that cannot be left out",
        ),
        (
            '[[package]]\nname = "a"\nversion = "1"\nsource = { registry = "." }\n'
            'wheels = [\n    { url = "https://x.invalid/a.whl", size = 3 },\n]\n',
            "a.whl has no hash",
        ),
        ("<<<<<<< HEAD\n", "not valid TOML"),
    ],
)
def test_a_lock_that_cannot_be_neutral_is_refused(text: str, message: str) -> None:
    with pytest.raises(LockError, match=message):
        neutralize(text)


@settings(max_examples=settings().max_examples // 4)
@given(locks())
def test_check_accepts_only_the_neutral_form(lock: str) -> None:
    neutral_lock.check(neutralize(lock))
    with pytest.raises(LockError, match=r"holds .* addresses; run"):
        neutral_lock.check(lock)
    with pytest.raises(LockError, match="not in its neutral form"):
        neutral_lock.check(neutralize(lock) + "\n[package.metadata]\n")


def test_verify_compares_what_is_staged_with_what_uv_completed(tmp_path: Path) -> None:
    git = shutil.which("git")
    assert git is not None
    completed = (
        '[[package]]\nname = "root"\nversion = "1"\nsource = { virtual = "." }\n\n'
        '[package.metadata]\n\n[[package]]\nname = "a"\nversion = "1"\n'
        f'source = {{ registry = "{INDEX}" }}\n'
        f'wheels = [\n    {{ url = "{INDEX}/a-1.whl", hash = "sha256:1234" }},\n]\n'
    )
    lock = tmp_path / "uv.lock"
    with pytest.raises(LockError, match=r"uv\.lock is not in git here"):
        neutral_lock.verify(tmp_path)
    lock.write_text(neutralize(completed))
    for command in (["init", "-q"], ["add", "uv.lock"]):
        subprocess.run([git, *command], cwd=tmp_path, check=True)
    lock.write_text(completed)
    neutral_lock.verify(tmp_path)
    lock.write_text(completed.replace("1234", "4321"))
    with pytest.raises(
        LockError, match=r"a-1\.whl is committed with sha256:1234 but completed with"
    ):
        neutral_lock.verify(tmp_path)
