from models.common import contracts, errors


def test_errors_are_the_same_under_both_names() -> None:
    assert contracts.InputError is errors.InputError
    assert contracts.AwaitedError is errors.AwaitedError
    assert issubclass(errors.AwaitedError, errors.InputError)
    assert issubclass(errors.InputError, ValueError)
