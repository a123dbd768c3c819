"""Numbers that a configuration must not have.

Knows names and numbers; does not know what is counted.
"""

from __future__ import annotations

from edgereason.errors import ConfigError


def require_at_least_one(**values: int | None) -> None:
    """Refuses a setting below 1; None is one that was left open.

    Raises:
        ConfigError: naming the setting.
    """
    for name, value in values.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
