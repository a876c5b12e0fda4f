"""Skip what this machine has too few GPUs for."""

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    import torch  # only GPU tests wait for this import

    needed = marker.kwargs.get("count", marker.args[0] if marker.args else 1)
    found = torch.cuda.device_count()
    if found < needed:
        pytest.skip(f"needs {needed} CUDA device(s), this machine has {found}")
