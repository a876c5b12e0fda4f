"""How many examples hypothesis tries: `--hypothesis-profile soak` tries twenty times as many.

A test whose examples are expensive asks for a part of `settings().max_examples`, so that it
follows the profile.
"""

import contextlib

# The trainers of `nox -s examples` have an environment without it.
with contextlib.suppress(ModuleNotFoundError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "tests",
        # Other processes share the cores, so that any example may take long.
        deadline=None,
        # Fixtures are folders and data sets, to which no example does any harm; and on a machine
        # that has other work, drawing examples may be slow as well.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.register_profile("soak", settings.get_profile("tests"), max_examples=2000)
    settings.load_profile("tests")
