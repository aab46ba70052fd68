from polymask.testing import parametrize_parts


@parametrize_parts(plugin="acme")
def test_part(check):
    check()
