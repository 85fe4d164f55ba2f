"""Each component holds the laws of its kind: one test a law."""

from collections.abc import Callable

from dfm_core.conformance import parametrize_with_checks


@parametrize_with_checks("example/steerable")
def test_steerable(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/unet", options={"width": 16})
def test_unet(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/cosine")
def test_cosine(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/beta")
def test_beta(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/orthogonal")
def test_orthogonal(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/trigonometric")
def test_trigonometric(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/kernel_distance")
def test_kernel_distance(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks("example/text")
def test_text(check: Callable[[], None]) -> None:
    check()
