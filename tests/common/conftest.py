"""Marks that Transformers' tests carry, so that `--strict-markers` knows them."""

import pytest

MARKS = ["accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test"]


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: used by the common tests of Transformers")
