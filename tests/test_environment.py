"""What a number was measured on, said by a checkout that nobody installed as well."""

from importlib import metadata

import advjax
from advjax.environment import hardware, versions


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch):
    installed = metadata.version

    def version(package):
        if package == "advjax":
            raise metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(metadata, "version", version)
    found = versions()
    assert found["advjax"] == advjax.__version__
    assert found["numpy"] == installed("numpy")


def test_the_machine_has_cores_and_devices():
    found = hardware()
    assert found["cores"] >= 1
    assert found["devices"] == ["cpu: cpu"] * 8
